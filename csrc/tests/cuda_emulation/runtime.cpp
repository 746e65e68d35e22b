#include "tests/cuda_emulation/runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda_emulation/fiber.h"
#include "tests/cuda_emulation/map.h"
#include "tests/cuda_emulation/sanitizers.h"

namespace b2m {
namespace cuda {
namespace emulation {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kLanes = 32;
constexpr int kWarpgroupWarps = 4;
constexpr int kMostShared = 227 * 1024;
constexpr std::uint32_t kSharedBase = 1024;  // of the window of shared addresses: the device keeps the first bytes to itself
constexpr int kMargin = 1024;                // bytes after a block's shared memory that must stay as they are
constexpr unsigned char kMarginByte = 0xa5;
constexpr int kNamedBarriers = 16;

// -------------------------------------------------------------------------------------------------------- chance

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint32_t next() {  // splitmix64
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::uint32_t>(z >> 32);
  }
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(std::uint64_t{next()} * bound >> 32); }
  bool one_in(std::uint32_t bound) { return below(bound) == 0; }
  /// One of the bits that are set.
  int bit_of(std::uint32_t mask) {
    for (std::uint32_t skip = below(static_cast<std::uint32_t>(__builtin_popcount(mask))); skip > 0; --skip) mask &= mask - 1;
    return __builtin_ctz(mask);
  }

 private:
  std::uint64_t state_;
};

// -------------------------------------------------------------------------------------- what there is of a block

/// When what runs asynchronously happens; drawn for each block and kind.
enum class Haste { at_once, sometime, late };

/// What all lanes of a warp do together.
enum class Collective {
  exchange,
  synchronise_warp,
  synchronise,
  load_matrices,
  multiply_16x8x16,
  begin_products,
  commit_products,
  wait_products,
  multiply_64x128x16
};

const char* name(Collective collective) {
  static const char* const names[] = {"exchange",        "synchronise_warp", "synchronise",
                                      "load_matrices",   "multiply_16x8x16", "begin_products",
                                      "commit_products", "wait_products",    "multiply_64x128x16"};
  return names[static_cast<int>(collective)];
}

struct PhaseBarrier;

struct Thread {
  Fiber fiber;
  int number = 0;
  bool finished = false;
  // What it waits for: its warp, unless this is set.
  const PhaseBarrier* waits_for = nullptr;
  int waits_for_parity = 0;
  // cp.async
  struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool done;
  };
  std::vector<Copy> copies;         // not yet waited for
  std::vector<std::size_t> groups;  // how many copies each committed group has
  std::size_t uncommitted = 0;
};

struct Warp {
  int size = 0;
  std::uint32_t ready = 0;
  std::uint32_t priority = 0;
  // The collective that lanes have come to.
  Collective collective{};
  std::uint64_t details[3] = {};
  std::uint32_t arrived = 0;
  void* arguments[kLanes] = {};
  // Warpgroup products
  bool fenced = false;
  std::vector<std::int64_t> groups;  // the last product of each committed group not yet waited for
};

struct NamedBarrier {
  int threads = 0;
  int arrived = 0;
  std::uint32_t warps = 0;
};

/// An mbarrier. Its eight bytes in shared memory only hold a mark that shows whether they were overwritten.
struct PhaseBarrier {
  std::uint64_t* address = nullptr;
  int arrivals = 0;  // of a phase
  int missing = 0;   // of this phase
  std::int64_t bytes = 0;
  std::int64_t phase = 0;
  int initialised_by = 0;
  bool published = false;
  std::vector<Thread*> waiting;
  char issued = 0;  // an object for release and acquire
};

struct Box {
  Map map;
  unsigned char* to;
  PhaseBarrier* barrier;
  std::int64_t column, row;
};

/// The accumulators of a warpgroup: the same array of each of its threads.
struct Accumulators {
  float* of[kWarpgroupWarps * kLanes] = {};
  float values[64][128] = {};
  std::int64_t last_product = 0;
  std::uint32_t in_flight = 0;  // warps whose registers do not have the result yet
};

struct Product {
  Accumulators* accumulators;
  std::uint64_t a, b;
  bool accumulate;
  std::int64_t number;
};

struct Warpgroup {
  std::uint32_t arrived = 0;  // warps that have come to a product
  std::int64_t issued = 0;
  std::vector<Product> pending;
  std::vector<std::unique_ptr<Accumulators>> accumulators;
  void* identity = nullptr;  // of its tensor cores
};

/// Rows of 16 elements.
template <std::size_t kRows>
using Operand = float[kRows][16];

/// Accumulators while a product is under way: a NaN that no arithmetic makes.
constexpr std::uint32_t kUnderWay = 0x7fa5a5a5;

void fill_under_way(float* values) {
  for (int i = 0; i < 64; ++i) std::memcpy(&values[i], &kUnderWay, sizeof kUnderWay);
}
bool is_under_way(const float* values) {
  for (int i = 0; i < 64; ++i) {
    if (std::memcmp(&values[i], &kUnderWay, sizeof kUnderWay) != 0) return false;
  }
  return true;
}

std::string text(std::int64_t number) { return std::to_string(number); }

// -------------------------------------------------------------------------------------------------------- the machine

/// Runs one block at a time. Kept from one grid to the next for its stacks.
class Machine {
 public:
  Machine();
  ~Machine();

  void run_grid(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);
  bool running() const { return body_ != nullptr; }

  Index thread_index() const { return {static_cast<unsigned>(self_->number), 0, 0}; }
  Index block_index() const { return {static_cast<unsigned>(block_), 0, 0}; }
  Index block_size() const { return {static_cast<unsigned>(thread_count_), 1, 1}; }
  Index grid_size() const { return {static_cast<unsigned>(blocks_), 1, 1}; }

  void exchange(void* value, std::size_t bytes, int mask) {
    meet(Collective::exchange, value, bytes, static_cast<unsigned>(mask));
  }
  void synchronise_warp() { meet(Collective::synchronise_warp, nullptr); }
  void synchronise_block() { meet(Collective::synchronise, nullptr, 0, static_cast<unsigned>(thread_count_)); }
  void synchronise(int barrier, int threads);
  unsigned char* shared_memory() const { return shared_; }
  std::uint32_t shared_address(const void* pointer) const;
  void copy_async(void* shared, const void* global, int bytes);
  void commit_copies();
  void wait_copies(int pending);
  void load_matrices(std::uint32_t* to, const void* shared);
  void multiply_16x8x16(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1);
  void initialise_barrier(std::uint64_t* address, int arrivals);
  void publish_barriers();
  void arrive(std::uint64_t* address, int bytes);
  void wait_barrier(std::uint64_t* address, int parity);
  void copy_box(void* shared, const Map& map, std::uint64_t* address, int column, int row);
  void begin_products() { meet(Collective::begin_products, nullptr); }
  void commit_products() { meet(Collective::commit_products, nullptr); }
  void wait_products(int pending) { meet(Collective::wait_products, nullptr, static_cast<unsigned>(pending)); }
  void multiply_64x128x16(float* d, std::uint64_t a, std::uint64_t b, bool accumulate) {
    meet(Collective::multiply_64x128x16, d, a, b, accumulate ? 1 : 0);
  }

 private:
  struct LoadArguments {
    std::uint32_t* to;
    const unsigned char* from;
  };
  struct MultiplyArguments {
    float* d;
    const std::uint32_t* a;
    std::uint32_t b[2];
  };

  [[noreturn]] void fail(const std::string& what) const;
  void require(bool holds, const char* what) const {
    if (!holds) fail(what);
  }

  void run_block(std::int64_t block);
  void reset_block();
  void check_end() const;
  static void begin_thread();

  // The order of threads.
  bool at_once(Haste haste) { return haste == Haste::at_once || (haste == Haste::sometime && random_.one_in(4)); }
  void make_ready(Thread& thread);
  Thread* pick();
  void suspend();
  void pause();
  std::string deadlock() const;
  std::string describe(const Thread& thread) const;

  // Collectives.
  Warp& warp_of(const Thread& thread) { return warps_[static_cast<std::size_t>(thread.number / kLanes)]; }
  const Warp& warp_of(const Thread& thread) const { return warps_[static_cast<std::size_t>(thread.number / kLanes)]; }
  static std::uint32_t all_lanes(const Warp& warp) { return warp.size == kLanes ? ~0u : (1u << warp.size) - 1; }
  void meet(Collective collective, void* argument, std::uint64_t first = 0, std::uint64_t second = 0, std::uint64_t third = 0);
  bool complete(int number, Warp& warp);
  void release_warp(int number);
  static void complete_exchange(const Warp& warp);
  void complete_load(const Warp& warp) const;
  static void complete_multiply(const Warp& warp);
  bool complete_barrier(int number, const Warp& warp);
  void* released_by(int number, const Warp& warp);
  void* acquired_by(int number, const Warp& warp);
  Warpgroup& warpgroup_of(int warp);

  // Copies.
  std::int64_t offset_of(const void* pointer, std::int64_t bytes, int alignment, const char* what) const;
  static void finish(Thread::Copy& copy);
  PhaseBarrier& find(std::uint64_t* address);
  void advance(PhaseBarrier& barrier);
  void finish_box(std::size_t index);
  void progress();

  // Warpgroup products.
  bool complete_product(int number, const Warp& warp);
  void issue(int number, const Warp& warp);
  Accumulators& accumulators_of(Warpgroup& group, float* const (&pointers)[kWarpgroupWarps * kLanes]);
  void perform(Warpgroup& group);
  void deliver(int number, Warp& warp);
  template <std::size_t kRows>
  void read_operand(std::uint64_t descriptor, Operand<kRows>& to) const;

  std::unique_ptr<Stacks> stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Warpgroup> warpgroups_;
  NamedBarrier named_[kNamedBarriers];
  std::vector<std::unique_ptr<PhaseBarrier>> barriers_;
  std::vector<Box> boxes_;
  std::vector<void*> identities_;  // two for each thread, for alternate blocks
  void* copier_ = nullptr;
  unsigned char* shared_ = nullptr;

  const std::function<void()>* body_ = nullptr;
  std::int64_t blocks_ = 0, block_ = 0;
  int thread_count_ = 0, shared_bytes_ = 0;
  Fiber caller_;
  Fiber* left_ = nullptr;  // by the latest switch
  Thread* self_ = nullptr;
  std::uint32_t ready_warps_ = 0;
  int unfinished_ = 0;
  bool by_priority_ = false;
  Haste copy_haste_{}, box_haste_{}, product_haste_{};
  Random random_{0};
  std::string error_;
  char begun_ = 0, ended_ = 0;  // for release and acquire: blocks come after what is before the grid, not after each other
};

// A pointer, so that no kernel pays for the check whether the machine is constructed.
__thread Machine* machine = nullptr;

Machine& own_machine() {
  thread_local Machine owned;
  machine = &owned;
  return owned;
}

constexpr std::size_t kSharedMapping = kMostShared + 4096 + kMargin - (kMostShared + kMargin) % 4096;

Machine::Machine() {
  void* memory = mmap(nullptr, kSharedMapping, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  shared_ = static_cast<unsigned char*>(memory);
}

Machine::~Machine() {
  for (void* identity : identities_) delete_identity(identity);
  for (const Warpgroup& group : warpgroups_) delete_identity(group.identity);
  delete_identity(copier_);
  permit(shared_, kSharedMapping);
  munmap(shared_, kSharedMapping);
  machine = nullptr;
}

void Machine::fail(const std::string& what) const {
  std::string where = "block " + text(block_);
  if (self_) where += ", thread " + text(self_->number);
  throw std::runtime_error("CUDA emulation: " + where + ": " + what);
}

// ---------------------------------------------------------------------------------------------- grids and blocks

std::uint64_t seed() {
  const char* value = std::getenv("B2M_EMULATION_SEED");
  if (!value || !*value) return 1;
  char* end = nullptr;
  const std::uint64_t parsed = std::strtoull(value, &end, 10);
  if (*end) throw std::runtime_error("B2M_EMULATION_SEED is '" + std::string(value) + "'; expected a number");
  return parsed;
}

void Machine::run_grid(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body) {
  static std::atomic<std::uint64_t> launches{0};
  if (running()) throw std::runtime_error("CUDA emulation: a kernel started another one");
  if (blocks <= 0) return;
  if (blocks > 0x7fffffff) throw std::runtime_error("CUDA emulation: " + text(blocks) + " blocks; at most 2147483647");
  if (threads < 1 || threads > kMostThreads) {
    throw std::runtime_error("CUDA emulation: " + text(threads) + " threads in a block; expected 1 to 1024");
  }
  if (shared_bytes < 0 || shared_bytes > kMostShared) {
    throw std::runtime_error("CUDA emulation: " + text(shared_bytes) + " bytes of shared memory; at most " + text(kMostShared));
  }
  const std::uint64_t launch_seed = (seed() << 32) + launches++;

  if (!stacks_ || stacks_->count() < threads) {
    stacks_.reset();
    stacks_ = std::make_unique<Stacks>(threads);
  }
  blocks_ = blocks;
  thread_count_ = threads;
  shared_bytes_ = shared_bytes;
  const auto count = static_cast<std::size_t>(threads);
  if (threads_.size() != count) {
    threads_.assign(count, Thread());
    warps_.assign((count + kLanes - 1) / kLanes, Warp());
  }
  for (std::size_t i = identities_.size(); i < 2 * count; ++i) identities_.push_back(new_identity());
  while (warpgroups_.size() < warps_.size() / kWarpgroupWarps) {
    warpgroups_.emplace_back();
    warpgroups_.back().identity = new_identity();
  }
  if (!copier_) copier_ = new_identity();
  caller_ = Fiber();
  caller_.identity = own_identity();

  struct Running {
    Machine& machine;
    ~Running() {
      machine.body_ = nullptr;
      acquire(&machine.ended_);
    }
  } running{*this};
  body_ = &body;
  for (std::int64_t block = 0; block < blocks; ++block) {
    random_ = Random(launch_seed * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(block));
    run_block(block);
  }
}

void Machine::reset_block() {
  permit(shared_, kSharedMapping);
#if defined(B2M_EMULATION_THREAD_SANITIZER)
  // New memory for each block: blocks are not ordered, but do not share this.
  if (mmap(shared_, kSharedMapping, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
    throw std::bad_alloc();
  }
#endif
  const auto bytes = static_cast<std::size_t>(shared_bytes_);
  std::memset(shared_, 0xff, bytes);  // NaN in every type
  std::memset(shared_ + bytes, kMarginByte, kMargin);
  forbid(shared_ + bytes, kMargin);

  barriers_.clear();
  boxes_.clear();
  for (NamedBarrier& barrier : named_) barrier = NamedBarrier();
  for (Warpgroup& group : warpgroups_) {
    group.arrived = 0;
    group.issued = 0;
    group.pending.clear();
    group.accumulators.clear();
  }
  ready_warps_ = 0;
  for (std::size_t number = 0; number < warps_.size(); ++number) {
    Warp& warp = warps_[number];
    warp.size = std::min(kLanes, thread_count_ - static_cast<int>(number) * kLanes);
    warp.ready = all_lanes(warp);
    warp.priority = random_.next();
    warp.arrived = 0;
    warp.fenced = false;
    warp.groups.clear();
    ready_warps_ |= 1u << number;
  }
  for (std::size_t number = 0; number < threads_.size(); ++number) {
    Thread& thread = threads_[number];
    thread.number = static_cast<int>(number);
    thread.finished = false;
    thread.waits_for = nullptr;
    thread.copies.clear();
    thread.groups.clear();
    thread.uncommitted = 0;
    stacks_->give(thread.number, thread.fiber);
    thread.fiber.identity = identities_[2 * number + static_cast<std::size_t>(block_ % 2)];
    prepare_fiber(thread.fiber, &Machine::begin_thread);
  }
  unfinished_ = thread_count_;
  error_.clear();
  // In half of the blocks warps run as evenly as chance has it, in the others some far ahead of others.
  by_priority_ = random_.one_in(2);
  copy_haste_ = static_cast<Haste>(random_.below(3));
  box_haste_ = static_cast<Haste>(random_.below(3));
  product_haste_ = static_cast<Haste>(random_.below(3));
}

void Machine::run_block(std::int64_t block) {
  block_ = block;
  self_ = nullptr;
  reset_block();
  release(&begun_);
  Thread* first = pick();
  self_ = first;
  left_ = &caller_;
  switch_fiber(caller_, first->fiber);
  self_ = nullptr;
  if (error_.empty() && unfinished_ > 0) error_ = "CUDA emulation: block " + text(block_) + ": " + deadlock();
  if (!error_.empty()) {
    stacks_->clean();
    throw std::runtime_error(error_);
  }
  check_end();
}

void Machine::check_end() const {
  require(boxes_.empty(), "the block ended while copies of boxes were under way");
  for (const Warpgroup& group : warpgroups_) {
    require(group.pending.empty(), "the block ended while products were under way");
    require(group.accumulators.empty(), "the block ended before all warps had waited for their products");
  }
  permit(shared_ + shared_bytes_, kMargin);
  for (int i = 0; i < kMargin; ++i) {
    require(shared_[shared_bytes_ + i] == kMarginByte, "memory after the block's shared memory was overwritten");
  }
}

/// Where every fiber begins.
void Machine::begin_thread() {
  Machine& own = *machine;
  begin_fiber(*own.left_);
  Thread& self = *own.self_;
  acquire(&own.begun_);
  try {
    (*own.body_)();
  } catch (const std::exception& exception) {
    own.error_ = exception.what();
  } catch (...) {
    own.error_ = "CUDA emulation: a kernel threw something";
  }
  release(&own.ended_);
  self.finished = true;
  --own.unfinished_;
  Thread* next = nullptr;
  if (own.error_.empty()) {
    try {
      next = own.pick();
    } catch (const std::exception& exception) {
      own.error_ = exception.what();
    }
  }
  own.self_ = next;
  own.left_ = &self.fiber;
  leave_fiber(self.fiber, next ? next->fiber : own.caller_);
}

// ------------------------------------------------------------------------------------------ the order of threads

void Machine::make_ready(Thread& thread) {
  warp_of(thread).ready |= 1u << thread.number % kLanes;
  ready_warps_ |= 1u << thread.number / kLanes;
}

/// Takes a thread that can go on; null if there is none.
Thread* Machine::pick() {
  if (random_.one_in(256)) progress();  // each step of a kernel takes hundreds of turns
  while (ready_warps_ == 0) {
    if (boxes_.empty()) return nullptr;
    finish_box(random_.below(static_cast<std::uint32_t>(boxes_.size())));
  }
  int number = 0;
  if (by_priority_) {
    std::uint32_t most = 0;
    for (std::uint32_t left = ready_warps_; left; left &= left - 1) {
      const int candidate = __builtin_ctz(left);
      const std::uint32_t priority = warps_[static_cast<std::size_t>(candidate)].priority;
      if (priority >= most) {
        most = priority;
        number = candidate;
      }
    }
    if (random_.one_in(256)) warps_[static_cast<std::size_t>(number)].priority = random_.next();
  } else {
    number = random_.bit_of(ready_warps_);
  }
  Warp& warp = warps_[static_cast<std::size_t>(number)];
  const int lane = random_.bit_of(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << number);
  return &threads_[static_cast<std::size_t>(number * kLanes + lane)];
}

/// Lets others run; returns when the thread was made ready and picked.
void Machine::suspend() {
  Thread& self = *self_;
  Thread* next = pick();
  if (next == &self) return;
  self_ = next;
  left_ = &self.fiber;
  switch_fiber(self.fiber, next ? next->fiber : caller_);
}

/// Lets others run now and then, where a thread would not have to wait.
void Machine::pause() {
  if (!random_.one_in(4)) return;
  make_ready(*self_);
  suspend();
}

/// Who waits for what, when nobody can go on.
std::string Machine::deadlock() const {
  std::map<std::string, std::vector<int>> waiting;
  for (const Thread& thread : threads_) {
    if (!thread.finished) waiting[describe(thread)].push_back(thread.number);
  }
  std::string message = "no thread can go on: ";
  for (const auto& entry : waiting) {
    message += "thread " + text(entry.second.front());
    if (entry.second.size() > 1) {
      message += " (and " + text(static_cast<std::int64_t>(entry.second.size()) - 1) + " more up to " +
                 text(entry.second.back()) + ")";
    }
    message += " waits in " + entry.first + "; ";
  }
  return message + text(thread_count_ - unfinished_) + " threads have finished";
}

std::string Machine::describe(const Thread& thread) const {
  if (thread.waits_for) {
    const PhaseBarrier& barrier = *thread.waits_for;
    return "wait_barrier (barrier at byte " + text(reinterpret_cast<unsigned char*>(barrier.address) - shared_) + ", parity " +
           text(thread.waits_for_parity) + "; it is in phase " + text(barrier.phase) + " and lacks " + text(barrier.missing) +
           " arrivals and " + text(barrier.bytes) + " bytes)";
  }
  const Warp& warp = warp_of(thread);
  std::string message = name(warp.collective);
  if (warp.arrived != all_lanes(warp)) {
    return message + " (" + text(warp.size - __builtin_popcount(warp.arrived)) + " lanes of its warp are missing)";
  }
  if (warp.collective == Collective::synchronise) {
    const NamedBarrier& barrier = named_[warp.details[0]];
    return message + " (barrier " + text(static_cast<std::int64_t>(warp.details[0])) + ", " + text(barrier.arrived) + " of " +
           text(barrier.threads) + " threads are there)";
  }
  return message + " (other warps of its warpgroup are missing)";
}

// -------------------------------------------------------------------------------------------------------- collectives

/// What a thread's own accesses before the collective come before, for the thread sanitizer, and after (null: nothing).
void* Machine::released_by(int number, const Warp& warp) {
  switch (warp.collective) {
    case Collective::synchronise:
      return &named_[warp.details[0]];
    case Collective::synchronise_warp:
      return &warps_[static_cast<std::size_t>(number)];
    case Collective::multiply_64x128x16:
      return &warpgroup_of(number).issued;
    default:
      return nullptr;
  }
}
void* Machine::acquired_by(int number, const Warp& warp) {
  if (warp.collective == Collective::multiply_64x128x16) return nullptr;
  return warp.collective == Collective::wait_products ? &warpgroup_of(number).pending : released_by(number, warp);
}

Warpgroup& Machine::warpgroup_of(int warp) {
  const auto number = static_cast<std::size_t>(warp / kWarpgroupWarps);
  require(number < warpgroups_.size() && warps_[kWarpgroupWarps * number + 3].size == kLanes, "products need four warps");
  return warpgroups_[number];
}

void Machine::meet(Collective collective, void* argument, std::uint64_t first, std::uint64_t second, std::uint64_t third) {
  const int number = self_->number / kLanes, lane = self_->number % kLanes;
  Warp& warp = warps_[static_cast<std::size_t>(number)];
  if (warp.arrived == 0) {
    warp.collective = collective;
    warp.details[0] = first;
    warp.details[1] = second;
    warp.details[2] = third;
  } else if (warp.collective != collective) {
    fail(std::string("in ") + name(collective) + ", while lane " + text(__builtin_ctz(warp.arrived)) + " of its warp is in " +
         name(warp.collective));
  } else if (warp.details[0] != first || warp.details[1] != second || warp.details[2] != third) {
    fail(std::string("lanes of its warp came to ") + name(collective) + " with different arguments");
  }
  warp.arguments[lane] = argument;
  warp.arrived |= 1u << lane;
  void* const before = released_by(number, warp);
  void* const after = acquired_by(number, warp);
  if (before) release(before);
  if (warp.arrived == all_lanes(warp) && complete(number, warp)) release_warp(number);
  suspend();
  if (after) acquire(after);
}

void Machine::release_warp(int number) {
  Warp& warp = warps_[static_cast<std::size_t>(number)];
  warp.arrived = 0;
  warp.ready = all_lanes(warp);
  ready_warps_ |= 1u << number;
}

/// All lanes of a warp are there. Returns whether they may go on.
bool Machine::complete(int number, Warp& warp) {
  if (warp.collective != Collective::synchronise && warp.collective != Collective::synchronise_warp) {
    require(warp.size == kLanes, "a collective in a warp of fewer than 32 threads");
  }
  switch (warp.collective) {
    case Collective::exchange:
      complete_exchange(warp);
      return true;
    case Collective::synchronise_warp:
      return true;
    case Collective::synchronise:
      return complete_barrier(number, warp);
    case Collective::load_matrices:
      complete_load(warp);
      return true;
    case Collective::multiply_16x8x16:
      complete_multiply(warp);
      return true;
    case Collective::begin_products:
      warp.fenced = true;
      return true;
    case Collective::commit_products:
      warp.groups.push_back(warpgroup_of(number).issued);
      return true;
    case Collective::wait_products:
      deliver(number, warp);
      return true;
    case Collective::multiply_64x128x16:
      return complete_product(number, warp);
  }
  return true;
}

template <std::size_t kBytes>
void exchange_values(void* const (&arguments)[kLanes], std::size_t mask) {
  unsigned char values[kLanes][kBytes];
  for (std::size_t lane = 0; lane < kLanes; ++lane) std::memcpy(values[lane], arguments[lane], kBytes);
  for (std::size_t lane = 0; lane < kLanes; ++lane) std::memcpy(arguments[lane], values[(lane ^ mask) % kLanes], kBytes);
}

void Machine::complete_exchange(const Warp& warp) {
  if (warp.details[0] == 4) {
    exchange_values<4>(warp.arguments, warp.details[1]);
  } else {
    exchange_values<8>(warp.arguments, warp.details[1]);
  }
}

void Machine::synchronise(int barrier, int threads) {
  require(barrier >= 0 && barrier < kNamedBarriers, "synchronise: barriers are numbered 0 to 15");
  require(threads > 0 && threads % kLanes == 0, "synchronise: the number of threads must be a multiple of 32");
  meet(Collective::synchronise, nullptr, static_cast<unsigned>(barrier), static_cast<unsigned>(threads));
}

bool Machine::complete_barrier(int number, const Warp& warp) {
  NamedBarrier& barrier = named_[warp.details[0]];
  const int threads = static_cast<int>(warp.details[1]);
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads) {
    fail("synchronise: barrier " + text(static_cast<std::int64_t>(warp.details[0])) + " for " + text(threads) +
         " threads, while others wait there for " + text(barrier.threads));
  }
  barrier.arrived += warp.size;
  barrier.warps |= 1u << number;
  if (barrier.arrived < barrier.threads) return false;
  require(barrier.arrived == barrier.threads, "synchronise: more threads than the barrier is for");
  for (std::uint32_t left = barrier.warps & ~(1u << number); left; left &= left - 1) release_warp(__builtin_ctz(left));
  barrier.arrived = 0;
  barrier.warps = 0;
  return true;
}

void Machine::load_matrices(std::uint32_t* to, const void* shared) {
  offset_of(shared, 16, 16, "load_matrices");
  read(shared, 16);
  LoadArguments arguments{to, static_cast<const unsigned char*>(shared)};
  meet(Collective::load_matrices, &arguments);
}

void Machine::complete_load(const Warp& warp) const {
  for (int lane = 0; lane < kLanes; ++lane) {
    std::uint32_t* to = static_cast<const LoadArguments*>(warp.arguments[lane])->to;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const auto* row = static_cast<const LoadArguments*>(warp.arguments[8 * matrix + lane / 4]);
      std::memcpy(&to[matrix], row->from + 4 * (lane % 4), 4);
    }
  }
}

void Machine::multiply_16x8x16(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  MultiplyArguments arguments{d, a, {b0, b1}};
  meet(Collective::multiply_16x8x16, &arguments);
}

/// The device adds the products of one instruction exactly and truncates; here each is added in turn and rounded to nearest.
void Machine::complete_multiply(const Warp& warp) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* from = static_cast<const MultiplyArguments*>(warp.arguments[lane]);
    const int line = lane / 4, pair = 2 * (lane % 4);
    for (int half = 0; half < 2; ++half) {
      for (int part = 0; part < 4; ++part) {
        a[line + 8 * (part % 2)][pair + half + 8 * (part / 2)] = from_bfloat16(from->a[part] >> 16 * half & 0xffff);
      }
      for (int part = 0; part < 2; ++part) b[pair + half + 8 * part][line] = from_bfloat16(from->b[part] >> 16 * half & 0xffff);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* d = static_cast<const MultiplyArguments*>(warp.arguments[lane])->d;
    for (int value = 0; value < 4; ++value) {
      const int row = lane / 4 + 8 * (value / 2), column = 2 * (lane % 4) + value % 2;
      for (int k = 0; k < 16; ++k) d[value] += a[row][k] * b[k][column];
    }
  }
}

// ------------------------------------------------------------------------------------ shared memory and cp.async

/// Where in the block's shared memory; an error if it is not there or not aligned.
std::int64_t Machine::offset_of(const void* pointer, std::int64_t bytes, int alignment, const char* what) const {
  const std::int64_t offset = static_cast<const unsigned char*>(pointer) - shared_;
  if (offset < 0 || offset + bytes > shared_bytes_) {
    fail(std::string(what) + ": " + text(bytes) + " bytes at byte " + text(offset) + " of " + text(shared_bytes_) +
         " bytes of shared memory");
  }
  if (offset % alignment != 0) {
    fail(std::string(what) + ": byte " + text(offset) + " of shared memory is not aligned to " + text(alignment));
  }
  return offset;
}

std::uint32_t Machine::shared_address(const void* pointer) const {
  return kSharedBase + static_cast<std::uint32_t>(offset_of(pointer, 1, 1, "shared_address"));
}

void Machine::copy_async(void* shared, const void* global, int bytes) {
  offset_of(shared, 16, 16, "copy_async");
  require(bytes >= 0 && bytes <= 16, "copy_async: 0 to 16 bytes");
  require(reinterpret_cast<std::uintptr_t>(global) % 16 == 0, "copy_async: the source is not aligned to 16 bytes");
  Thread::Copy copy{shared, global, bytes, false};
  if (at_once(copy_haste_)) finish(copy);
  self_->copies.push_back(copy);
  ++self_->uncommitted;
}

void Machine::finish(Thread::Copy& copy) {
  if (copy.done) return;
  copy.done = true;
  unsigned char staged[16] = {};
  const auto bytes = static_cast<std::size_t>(copy.bytes);
  read(copy.from, bytes);
  write(copy.to, 16);
  std::memcpy(staged, copy.from, bytes);
  std::memcpy(copy.to, staged, 16);
}

void Machine::commit_copies() {
  self_->groups.push_back(self_->uncommitted);
  self_->uncommitted = 0;
  pause();
  if (copy_haste_ == Haste::sometime && random_.one_in(4)) {
    for (Thread::Copy& copy : self_->copies) finish(copy);
  }
}

void Machine::wait_copies(int pending) {
  std::vector<Thread::Copy>& copies = self_->copies;
  std::vector<std::size_t>& groups = self_->groups;
  std::size_t done = 0, count = 0;
  while (groups.size() - done > static_cast<std::size_t>(pending)) count += groups[done++];
  for (std::size_t i = 0; i < count; ++i) finish(copies[i]);
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(count));
  groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(done));
  pause();
}

// ------------------------------------------------------------------------------------------- mbarriers and boxes

std::uint64_t mark_of(const std::uint64_t* address) { return reinterpret_cast<std::uintptr_t>(address) * 0x9e3779b97f4a7c15u; }

void Machine::initialise_barrier(std::uint64_t* address, int arrivals) {
  offset_of(address, 8, 8, "initialise_barrier");
  require(arrivals > 0 && arrivals < 1 << 20, "initialise_barrier: 1 to 2^20 - 1 arrivals");
  for (const auto& barrier : barriers_) require(barrier->address != address, "initialise_barrier: it was initialised before");
  barriers_.push_back(std::make_unique<PhaseBarrier>());
  PhaseBarrier& barrier = *barriers_.back();
  barrier.address = address;
  barrier.arrivals = barrier.missing = arrivals;
  barrier.initialised_by = self_->number;
  write(address, 8);
  *address = mark_of(address);
  pause();
}

void Machine::publish_barriers() {
  for (const auto& barrier : barriers_) {
    if (barrier->initialised_by == self_->number) barrier->published = true;
  }
}

PhaseBarrier& Machine::find(std::uint64_t* address) {
  for (const auto& barrier : barriers_) {
    if (barrier->address != address) continue;
    read(address, 8);
    require(*address == mark_of(address), "a barrier was overwritten");
    return *barrier;
  }
  fail("the barrier at byte " + text(reinterpret_cast<unsigned char*>(address) - shared_) + " is not initialised");
}

/// Begins the next phase if nothing is missing of this one.
void Machine::advance(PhaseBarrier& barrier) {
  if (barrier.missing > 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.missing = barrier.arrivals;
  for (Thread* thread : barrier.waiting) make_ready(*thread);
  barrier.waiting.clear();
}

void Machine::arrive(std::uint64_t* address, int bytes) {
  pause();
  PhaseBarrier& barrier = find(address);
  require(bytes >= 0 && bytes < 1 << 20, "arrive_expecting: 0 to 2^20 - 1 bytes");
  require(barrier.missing > 0, "arrive: more arrivals than the phase is for");
  release(&barrier);
  barrier.bytes += bytes;
  require(barrier.bytes < 1 << 20, "arrive_expecting: more than 2^20 - 1 bytes in a phase");
  --barrier.missing;
  advance(barrier);
  pause();
}

void Machine::wait_barrier(std::uint64_t* address, int parity) {
  require(parity == 0 || parity == 1, "wait_barrier: a parity is 0 or 1");
  pause();
  PhaseBarrier& barrier = find(address);
  // Looked at again when it is this thread's turn: a phase that came and went meanwhile is missed, as on the device.
  while (barrier.phase % 2 == parity) {
    self_->waits_for = &barrier;
    self_->waits_for_parity = parity;
    barrier.waiting.push_back(self_);
    suspend();
    self_->waits_for = nullptr;
  }
  acquire(&barrier);
}

void Machine::copy_box(void* shared, const Map& map, std::uint64_t* address, int column, int row) {
  offset_of(shared, std::int64_t{map.box_rows} * 128, 1024, "copy_box");
  PhaseBarrier& barrier = find(address);
  require(barrier.published, "copy_box: publish_barriers is missing");
  boxes_.push_back({map, static_cast<unsigned char*>(shared), &barrier, column, row});
  release(&barrier.issued);
  if (at_once(box_haste_)) finish_box(boxes_.size() - 1);
  pause();
}

void Machine::finish_box(std::size_t index) {
  const Box box = boxes_[index];
  boxes_[index] = boxes_.back();
  boxes_.pop_back();
  void* const identity = own_identity();
  become(copier_);
  acquire(&box.barrier->issued);
  write(box.to, static_cast<std::size_t>(box.map.box_rows) * 128);
  const std::int64_t first = std::max<std::int64_t>(box.column, 0), last = std::min(box.column + 64, box.map.columns);
  for (int i = 0; i < box.map.box_rows; ++i) {
    unsigned char line[128] = {};
    const std::int64_t row = box.row + i;
    if (row >= 0 && row < box.map.rows && first < last) {
      const auto bytes = static_cast<std::size_t>(2 * (last - first));
      const unsigned char* from = box.map.data + 2 * (row * box.map.columns + first);
      read(from, bytes);
      std::memcpy(line + 2 * (first - box.column), from, bytes);
    }
    for (int chunk = 0; chunk < 8; ++chunk) std::memcpy(box.to + 128 * i + 16 * (chunk ^ i % 8), line + 16 * chunk, 16);
  }
  release(box.barrier);
  become(identity);
  box.barrier->bytes -= std::int64_t{box.map.box_rows} * 128;
  require(box.barrier->bytes > -(1 << 20), "copy_box: bytes that no thread expects");
  advance(*box.barrier);
}

/// Something that is under way happens.
void Machine::progress() {
  if (!boxes_.empty() && box_haste_ == Haste::sometime && random_.one_in(2)) {
    finish_box(random_.below(static_cast<std::uint32_t>(boxes_.size())));
  } else if (!warpgroups_.empty() && product_haste_ == Haste::sometime) {
    Warpgroup& group = warpgroups_[random_.below(static_cast<std::uint32_t>(warpgroups_.size()))];
    if (!group.pending.empty()) perform(group);
  }
}

// -------------------------------------------------------------------------------------------- warpgroup products

bool Machine::complete_product(int number, const Warp& warp) {
  const int group_number = number / kWarpgroupWarps;
  require(warp.fenced, "multiply_64x128x16: begin_products is missing");
  Warpgroup& group = warpgroup_of(number);
  if (group.arrived != 0) {
    const Warp& other = warps_[static_cast<std::size_t>(kWarpgroupWarps * group_number + __builtin_ctz(group.arrived))];
    require(std::equal(warp.details, warp.details + 3, other.details),
            "multiply_64x128x16: warps came with different arguments");
  }
  group.arrived |= 1u << number % kWarpgroupWarps;
  if (group.arrived != (1u << kWarpgroupWarps) - 1) return false;
  group.arrived = 0;
  issue(group_number, warp);
  for (int i = 0; i < kWarpgroupWarps; ++i) {
    if (kWarpgroupWarps * group_number + i != number) release_warp(kWarpgroupWarps * group_number + i);
  }
  return true;
}

/// The accumulators that the threads of a warpgroup name, or new ones.
Accumulators& Machine::accumulators_of(Warpgroup& group, float* const (&pointers)[kWarpgroupWarps * kLanes]) {
  for (const auto& known : group.accumulators) {
    for (int i = 0; i < kWarpgroupWarps * kLanes; ++i) {
      const std::ptrdiff_t apart = pointers[i] - known->of[i];
      require((apart == 0) == (pointers[0] == known->of[0]) && (apart == 0 || apart >= 64 || apart <= -64),
              "multiply_64x128x16: accumulators overlap others of a product under way");
    }
    if (known->of[0] == pointers[0]) return *known;
  }
  group.accumulators.push_back(std::make_unique<Accumulators>());
  std::copy(std::begin(pointers), std::end(pointers), group.accumulators.back()->of);
  return *group.accumulators.back();
}

/// Row and column in the product of value `index` of a thread of the warpgroup.
int row_of(int thread, int index) { return thread / 32 * 16 + thread % 32 / 4 + index % 4 / 2 * 8; }
int column_of(int thread, int index) { return index / 4 * 8 + thread % 4 * 2 + index % 2; }

void Machine::issue(int number, const Warp& warp) {
  Warpgroup& group = warpgroups_[static_cast<std::size_t>(number)];
  float* pointers[kWarpgroupWarps * kLanes];
  for (int i = 0; i < kWarpgroupWarps * kLanes; ++i) {
    pointers[i] =
        static_cast<float*>(warps_[static_cast<std::size_t>(kWarpgroupWarps * number + i / kLanes)].arguments[i % kLanes]);
  }
  Accumulators& accumulators = accumulators_of(group, pointers);
  require(accumulators.in_flight == 0 || accumulators.in_flight == 15,
          "multiply_64x128x16: not all warps have waited for the product before");
  for (int i = 0; i < kWarpgroupWarps * kLanes; ++i) {
    if (accumulators.in_flight == 0) {
      for (int index = 0; index < 64; ++index) accumulators.values[row_of(i, index)][column_of(i, index)] = pointers[i][index];
      fill_under_way(pointers[i]);
    } else {
      require(is_under_way(pointers[i]), "accumulators were written while a product was under way");
    }
  }
  accumulators.in_flight = 15;
  accumulators.last_product = ++group.issued;
  group.pending.push_back({&accumulators, warp.details[0], warp.details[1], warp.details[2] != 0, group.issued});
  if (at_once(product_haste_)) {
    while (!group.pending.empty()) perform(group);
  }
}

/// Rows of 16 bfloat16 from shared memory, as the descriptor says: the canonical layouts with k contiguous.
template <std::size_t kRows>
void Machine::read_operand(std::uint64_t descriptor, Operand<kRows>& to) const {
  const auto field = [&](int shift) { return static_cast<std::int64_t>(descriptor >> shift & 0x3fff) << 4; };
  const std::int64_t start = field(0), leading = field(16), stride = field(32);
  const int mode = static_cast<int>(descriptor >> 62);
  require((descriptor & 0x3ffec000c000c000u) == 0, "operand descriptor: bits that must be 0, or a base offset (not emulated)");
  const int width = mode == 0 ? 16 : mode == 1 ? 128 : mode == 2 ? 64 : 32;
  for (std::size_t line = 0; line < kRows; ++line) {
    const auto row = static_cast<std::int64_t>(line);
    for (int chunk = 0; chunk < 2; ++chunk) {
      std::int64_t address = start + row % 8 * width + row / 8 * stride + chunk * (mode == 0 ? leading : 16);
      address ^= (address >> 7 & (width / 16 - 1)) << 4;
      const unsigned char* from = shared_ + (address - kSharedBase);
      offset_of(from, 16, 16, "operand of multiply_64x128x16");
      read(from, 16);
      for (int k = 0; k < 8; ++k) {
        std::uint16_t half;
        std::memcpy(&half, from + 2 * k, 2);
        to[line][8 * chunk + k] = from_bfloat16(half);
      }
    }
  }
}

/// Does the first product that is under way. The device truncates as it adds; here each product is added in turn, to nearest.
void Machine::perform(Warpgroup& group) {
  const Product product = group.pending.front();
  group.pending.erase(group.pending.begin());
  void* const identity = own_identity();
  become(group.identity);
  acquire(&group.issued);
  Operand<64> a;
  Operand<128> b;
  float turned[16][128];
  read_operand(product.a, a);
  read_operand(product.b, b);
  release(&group.pending);
  become(identity);
  for (int column = 0; column < 128; ++column) {
    for (int k = 0; k < 16; ++k) turned[k][column] = b[column][k];
  }
  for (int row = 0; row < 64; ++row) {
    float* d = product.accumulators->values[row];
    if (!product.accumulate) std::fill(d, d + 128, 0.0f);
    for (int k = 0; k < 16; ++k) {
      const float x = a[row][k];
      for (int column = 0; column < 128; ++column) d[column] += x * turned[k][column];
    }
  }
}

/// A warp waits for its products: those done by then are in its registers.
void Machine::deliver(int number, Warp& warp) {
  Warpgroup& group = warpgroup_of(number);
  const std::size_t pending = warp.details[0];
  if (warp.groups.size() <= pending) return;
  const auto done = static_cast<std::ptrdiff_t>(warp.groups.size() - pending);
  const std::int64_t last = warp.groups[static_cast<std::size_t>(done - 1)];
  warp.groups.erase(warp.groups.begin(), warp.groups.begin() + done);
  while (!group.pending.empty() && group.pending.front().number <= last) perform(group);
  const std::uint32_t bit = 1u << number % kWarpgroupWarps;
  for (std::size_t i = 0; i < group.accumulators.size();) {
    Accumulators& accumulators = *group.accumulators[i];
    if ((accumulators.in_flight & bit) && accumulators.last_product <= last) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int thread = number % kWarpgroupWarps * kLanes + lane;
        float* to = accumulators.of[thread];
        require(is_under_way(to), "accumulators were written while a product was under way");
        for (int index = 0; index < 64; ++index)
          to[index] = accumulators.values[row_of(thread, index)][column_of(thread, index)];
      }
      accumulators.in_flight &= ~bit;
      warp.fenced = false;
    }
    if (accumulators.in_flight == 0) {
      group.accumulators.erase(group.accumulators.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

}  // namespace

// ------------------------------------------------------------------------------------------- what device.h calls

Index thread_index() { return machine->thread_index(); }
Index block_index() { return machine->block_index(); }
Index block_size() { return machine->block_size(); }
Index grid_size() { return machine->grid_size(); }

void run_grid(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body) {
  own_machine().run_grid(blocks, threads, shared_bytes, body);
}

void exchange(void* value, std::size_t bytes, int mask) { machine->exchange(value, bytes, mask); }
void synchronise_warp() { machine->synchronise_warp(); }
void synchronise_block() { machine->synchronise_block(); }
void synchronise(int barrier, int threads) { machine->synchronise(barrier, threads); }
unsigned char* shared_memory() { return machine->shared_memory(); }
std::uint32_t shared_address(const void* pointer) { return machine->shared_address(pointer); }
void copy_async(void* shared, const void* global, int bytes) { machine->copy_async(shared, global, bytes); }
void commit_copies() { machine->commit_copies(); }
void wait_copies(int pending) { machine->wait_copies(pending); }
void load_matrices(std::uint32_t* to, const void* shared) { machine->load_matrices(to, shared); }
void multiply_16x8x16(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  machine->multiply_16x8x16(d, a, b0, b1);
}
void initialise_barrier(std::uint64_t* barrier, int arrivals) { machine->initialise_barrier(barrier, arrivals); }
void publish_barriers() { machine->publish_barriers(); }
void arrive(std::uint64_t* barrier, int bytes) { machine->arrive(barrier, bytes); }
void wait_barrier(std::uint64_t* barrier, int parity) { machine->wait_barrier(barrier, parity); }
void read_map(const TensorMap* map) { (void)decode(map); }
void copy_box(void* shared, const TensorMap* map, std::uint64_t* barrier, int column, int row) {
  machine->copy_box(shared, decode(map), barrier, column, row);
}
void begin_products() { machine->begin_products(); }
void commit_products() { machine->commit_products(); }
void wait_products(int pending) { machine->wait_products(pending); }
void multiply_64x128x16(float* d, std::uint64_t a, std::uint64_t b, bool accumulate) {
  machine->multiply_64x128x16(d, a, b, accumulate);
}

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
