// The emulation itself: each function of device.h against a plain computation, under several orders of threads; and whether it
// finds mistakes in a kernel.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launch.h"
#include "tests/check.h"

namespace {

using namespace b2m::cuda;

constexpr std::int64_t kSeeds = 12;

void set_seed(std::int64_t seed) { setenv("B2M_EMULATION_SEED", std::to_string(seed).c_str(), 1); }

template <class Kernel, class... Arguments>
void run(Kernel kernel, std::int64_t blocks, int threads, int shared_bytes, const Arguments&... arguments) {
  launch("test", kernel, blocks, threads, shared_bytes, Stream{0, nullptr}, arguments...);
}

/// How a kernel ended: empty, or what was said about it.
template <class Kernel, class... Arguments>
std::string error_of(Kernel kernel, int threads, int shared_bytes, const Arguments&... arguments) {
  try {
    run(kernel, 1, threads, shared_bytes, arguments...);
  } catch (const std::exception& exception) {
    return exception.what();
  }
  return "";
}

void expect(const std::string& message, const char* part) {
  if (message.find(part) == std::string::npos) {
    std::printf("expected '%s' in '%s'\n", part, message.c_str());
    CHECK(false);
  }
}

/// Whether a mistake that shows under some orders only does so in a few attempts.
template <class Attempt>
bool found(const Attempt& attempt) {
  for (int i = 0; i < 30; ++i) {
    if (attempt()) return true;
  }
  return false;
}

/// Bytes aligned as device memory is.
template <class T>
class Memory {
 public:
  explicit Memory(std::size_t count, T value = T())
      : size_(count), data_(static_cast<T*>(std::aligned_alloc(256, (count * sizeof(T) + 255) / 256 * 256))) {
    for (std::size_t i = 0; i < count; ++i) data_[i] = value;
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  T* get() const { return data_; }
  T& operator[](std::size_t i) const { return data_[i]; }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_;
  T* data_;
};

/// bfloat16 of small integers: products and sums are exact.
void fill(const Memory<std::uint16_t>& to, unsigned seed) {
  std::mt19937 generator(seed);
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] = static_cast<std::uint16_t>(emulation::to_bfloat16(static_cast<float>(generator() % 17) - 8));
  }
}
float value(std::uint16_t half) { return emulation::from_bfloat16(half); }

// ------------------------------------------------------------------------------------------------ within a block

__global__ void indices(int* out) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = static_cast<int>(blockIdx.x * 1000 + threadIdx.x + 100000 * gridDim.x);
}

__global__ void exchanges(float* single, double* pair) {
  const int thread = static_cast<int>(threadIdx.x);
  single[thread] = device::exchange(static_cast<float>(thread), 5);
  double sum = thread;
  for (int mask = 16; mask > 0; mask /= 2) sum += device::exchange(sum, mask);
  pair[thread] = sum;
}

/// Threads hand values on in a ring, through memory; each step needs both barriers.
__global__ void ring(int* out, int steps) {
  auto* shared = reinterpret_cast<int*>(device::shared_memory());
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  int held = thread;
  for (int step = 0; step < steps; ++step) {
    shared[thread] = held;
    __syncthreads();
    held = shared[(thread + 1) % threads];
    __syncthreads();
  }
  out[thread] = held;
}

/// Two halves of a block, each with a barrier of its own and as often as it likes.
__global__ void halves(int* out) {
  __shared__ int shared[128];
  const int thread = static_cast<int>(threadIdx.x), half = thread / 64;
  int held = thread;
  for (int step = 0; step < 3 + 4 * half; ++step) {
    shared[thread] = held;
    device::synchronise(1 + half, 64);
    held = shared[64 * half + (thread + 1) % 64];
    device::synchronise(1 + half, 64);
  }
  out[thread] = held;
}

__global__ void no_barrier(int* out) {
  auto* shared = reinterpret_cast<int*>(device::shared_memory());
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = thread;
  out[thread] = shared[thread ^ 32];
}

__global__ void absent_threads() {
  if (threadIdx.x < 64) __syncthreads();
}
__global__ void absent_lanes(float* out) {
  if (threadIdx.x != 7) *out = device::exchange(1.0f, 1);
}
__global__ void different_collectives(float* out) {
  if (threadIdx.x % 2 == 0) {
    *out = device::exchange(1.0f, 2);
  } else {
    device::synchronise_warp();
  }
}
__global__ void different_counts() { device::synchronise(3, threadIdx.x < 32 ? 64 : 96); }
__global__ void past_shared_memory() { device::shared_memory()[100 + threadIdx.x] = 1; }

void within_a_block() {
  {
    Memory<int> out(3 * 70);
    run(indices, 3, 70, 0, out.get());
    for (int i = 0; i < 210; ++i) CHECK(out[static_cast<std::size_t>(i)] == 300000 + i / 70 * 1000 + i % 70);
  }
  {
    Memory<float> single(64);
    Memory<double> pair(64);
    run(exchanges, 1, 64, 0, single.get(), pair.get());
    for (std::size_t i = 0; i < 64; ++i) {
      CHECK(single[i] == static_cast<float>(i ^ 5));
      CHECK(pair[i] == (i < 32 ? 496 : 496 + 1024));
    }
  }
  for (const int threads : {1, 31, 33, 257}) {
    Memory<int> out(static_cast<std::size_t>(threads));
    run(ring, 1, threads, threads * 4, out.get(), 5);
    for (int i = 0; i < threads; ++i) CHECK(out[static_cast<std::size_t>(i)] == (i + 5) % threads);
  }
  {
    Memory<int> out(128);
    run(halves, 1, 128, 0, out.get());
    for (int i = 0; i < 128; ++i) {
      CHECK(out[static_cast<std::size_t>(i)] == i / 64 * 64 + (i + 3 + 4 * (i / 64)) % 64);
    }
  }
  CHECK(device::pack_bfloat16(1.0f, -2.0f) == 0xc0003f80u);
  CHECK(device::pack_bfloat16(1.00390625f, 1.01171875f) == 0x3f823f80u);  // ties, to even
  CHECK(device::pack_bfloat16(NAN, INFINITY) == 0x7f807fffu);
  CHECK(device::power_of_two(-3) == 0.125f && device::power_of_two(-INFINITY) == 0 && device::power_of_two(-126.5f) == 0);
  CHECK(std::isnan(device::power_of_two(NAN)));

  float out = 0;
  expect(error_of(absent_threads, 96, 0), "64 of 96 threads are there");
  expect(error_of(absent_lanes, 32, 0, &out), "1 lanes of its warp are missing");
  expect(error_of(different_collectives, 32, 0, &out), "of its warp is in");
  expect(error_of(different_counts, 64, 0), "threads, while others wait there for");
  expect(error_of(absent_threads, 1025, 0), "1025 threads in a block");
  expect(error_of(absent_threads, 64, 300000), "300000 bytes of shared memory");
#if defined(__SANITIZE_ADDRESS__)  // which stops there by itself
  (void)past_shared_memory;
#else
  expect(error_of(past_shared_memory, 64, 128), "memory after the block's shared memory was overwritten");
#endif
}

// -------------------------------------------------------------------------------------------------------- sm_80

/// Copies lines of 16 bytes through two stages.
__global__ void staged_copy(const std::uint32_t* in, std::uint32_t* out, int lines, int bytes, int early) {
  unsigned char* shared = device::shared_memory();
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const auto load = [&](int line) {
    if (line < lines) device::copy_async(shared + 16 * (line / threads % 2 * threads + thread), in + 4 * line, bytes);
    device::commit_copies();
  };
  load(thread);
  for (int line = thread; line < lines; line += threads) {
    load(line + threads);
    if (early) {
      device::wait_copies<2>();  // a mistake
    } else {
      device::wait_copies<1>();
    }
    std::memcpy(out + 4 * line, shared + 16 * (line / threads % 2 * threads + thread), 16);
  }
}

__global__ void matrices(const std::uint16_t* in, std::uint32_t* out) {
  auto* shared = reinterpret_cast<std::uint16_t*>(device::shared_memory());
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) shared[i] = in[i];
  device::synchronise_warp();
  std::uint32_t fragments[4];
  device::load_matrices(fragments, shared + 8 * threadIdx.x);
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + static_cast<unsigned>(i)] = fragments[i];
}

/// 16x8 = 16x16 by 16x8 (given as 8x16); fragments straight from memory, as the comment in device.h says.
__global__ void small_product(const std::uint16_t* a, const std::uint16_t* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), line = lane / 4, pair = 2 * (lane % 4);
  const auto two = [](const std::uint16_t* at) { return at[0] | std::uint32_t{at[1]} << 16; };
  const std::uint32_t fragments[4] = {two(a + 16 * line + pair), two(a + 16 * (line + 8) + pair), two(a + 16 * line + pair + 8),
                                      two(a + 16 * (line + 8) + pair + 8)};
  float sums[4] = {1, 2, 3, 4};
  device::multiply_16x8x16(sums, fragments, two(b + 16 * line + pair), two(b + 16 * line + pair + 8));
  for (int i = 0; i < 4; ++i) d[8 * (line + 8 * (i / 2)) + pair + i % 2] = sums[i];
}

__global__ void stray_copy(const std::uint32_t* in, int offset, int from) {
  device::copy_async(device::shared_memory() + offset, reinterpret_cast<const unsigned char*>(in) + from, 16);
}

void for_sm_80() {
  {
    Memory<std::uint32_t> in(4 * 500), out(4 * 500);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::uint32_t>(i * 2654435761u);
    run(staged_copy, 1, 64, 2048, in.get(), out.get(), 500, 16, 0);
    for (std::size_t i = 0; i < in.size(); ++i) CHECK(in[i] == out[i]);
    run(staged_copy, 1, 64, 2048, in.get(), out.get(), 500, 4, 0);
    for (std::size_t i = 0; i < in.size(); ++i) CHECK(out[i] == (i % 4 == 0 ? in[i] : 0));
    CHECK(found([&] {
      run(staged_copy, 1, 64, 2048, in.get(), out.get(), 500, 16, 1);
      return std::memcmp(in.get(), out.get(), 4 * in.size()) != 0;
    }));
    expect(error_of(stray_copy, 32, 64, in.get(), 64, 0), "copy_async: 16 bytes at byte 64 of 64");
    expect(error_of(stray_copy, 32, 64, in.get(), 8, 0), "not aligned to 16");
    expect(error_of(stray_copy, 32, 64, in.get(), 0, 8), "the source is not aligned");
  }
  {
    Memory<std::uint16_t> in(256);
    Memory<std::uint32_t> out(128);
    for (std::size_t i = 0; i < 256; ++i) in[i] = static_cast<std::uint16_t>(i);
    run(matrices, 1, 32, 512, in.get(), out.get());
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t matrix = 0; matrix < 4; ++matrix) {
        const std::size_t first = 64 * matrix + 8 * (lane / 4) + 2 * (lane % 4);
        CHECK(out[4 * lane + matrix] == (first | (first + 1) << 16));
      }
    }
  }
  {
    Memory<std::uint16_t> a(256), b(128);
    Memory<float> d(128);
    fill(a, 1);
    fill(b, 2);
    run(small_product, 1, 32, 0, a.get(), b.get(), d.get());
    for (std::size_t i = 0; i < 16; ++i) {
      for (std::size_t j = 0; j < 8; ++j) {
        float sum = static_cast<float>(1 + i / 8 * 2 + j % 2);
        for (std::size_t k = 0; k < 16; ++k) sum += value(a[16 * i + k]) * value(b[16 * j + k]);
        CHECK(d[8 * i + j] == sum);
      }
    }
  }
}

// ------------------------------------------------------------------------------------ sm_90a: barriers and boxes

enum class Mistake {
  none,
  no_barrier_initialised,
  not_published,
  no_arrival,
  too_many_arrivals,
  fewer_bytes,
  no_wait,
  wrong_parity,
  overwritten,
  slot_not_empty,
  no_begin,
  no_product_wait,
  read_too_early,
  written_too_early,
  swizzle,
  stride,
  depth_step,
  one_warp_missing
};

/// Copies boxes of 32 x 64 of a matrix, one after the other, through two slots: thread 64 fills them, the others read.
__global__ void boxes(const TensorMap map, int row_boxes, int column_boxes, int first_row, int first_column, std::uint16_t* out,
                      Mistake mistake) {
  unsigned char* shared = device::shared_memory();
  auto* full = reinterpret_cast<std::uint64_t*>(shared + 8192);
  auto* empty = full + 2;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    for (int slot = 0; slot < (mistake == Mistake::no_barrier_initialised ? 1 : 2); ++slot) {
      device::initialise_barrier(full + slot, 1);
      device::initialise_barrier(empty + slot, mistake == Mistake::no_arrival          ? 65
                                               : mistake == Mistake::too_many_arrivals ? 63
                                                                                       : 64);
    }
    if (mistake != Mistake::not_published) device::publish_barriers();
  }
  __syncthreads();
  for (int box = 0; box < row_boxes * column_boxes; ++box) {
    const int slot = box % 2, parity = box / 2 % 2;
    const int column = first_column + box % column_boxes * 64, row = first_row + box / column_boxes * 32;
    if (thread == 64) {
      if (mistake != Mistake::slot_not_empty)
        device::wait_barrier(empty + slot, parity ^ (mistake == Mistake::wrong_parity ? 0 : 1));
      device::arrive_expecting(full + slot, mistake == Mistake::fewer_bytes ? 2048 : 4096);
      device::copy_box(shared + 4096 * slot, &map, full + slot, column, row);
    } else if (thread < 64) {
      if (mistake != Mistake::no_wait) device::wait_barrier(full + slot, parity);
      for (int i = thread; i < 32 * 64; i += 64) {
        const int line = i / 64, byte = 128 * line + 2 * (i % 64);
        std::memcpy(out + 2048 * box + i, shared + 4096 * slot + (byte ^ (line % 8) << 4), 2);
      }
      if (mistake == Mistake::overwritten && thread == 3) full[slot] = 0;
      device::arrive(empty + slot);
    }
  }
}

void barriers_and_boxes() {
  const std::int64_t rows = 75, columns = 136;
  Memory<std::uint16_t> in(static_cast<std::size_t>(rows * columns)), out(4 * 3 * 2048, 0xdead);
  fill(in, 3);
  const TensorMap map = map_rows(in.get(), rows, columns, 32);
  const auto agrees = [&] {
    for (std::int64_t box = 0; box < 12; ++box) {
      for (std::int64_t i = 0; i < 2048; ++i) {
        const std::int64_t row = -5 + box / 3 * 32 + i / 64, column = -9 + box % 3 * 64 + i % 64;
        const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
        const int expected = inside ? in[static_cast<std::size_t>(row * columns + column)] : 0;
        if (out[static_cast<std::size_t>(2048 * box + i)] != expected) return false;
      }
    }
    return true;
  };
  const auto ends = [&](Mistake mistake) { return error_of(boxes, 96, 8192 + 64, map, 4, 3, -5, -9, out.get(), mistake); };
  CHECK(ends(Mistake::none).empty());
  CHECK(agrees());
  expect(ends(Mistake::no_barrier_initialised), "is not initialised");
  expect(ends(Mistake::not_published), "publish_barriers is missing");
  expect(ends(Mistake::no_arrival), "lacks 1 arrivals and 0 bytes");
  expect(ends(Mistake::fewer_bytes), "CUDA emulation");
  expect(ends(Mistake::wrong_parity), "parity 0; it is in phase 0");
  expect(ends(Mistake::overwritten), "a barrier was overwritten");
  for (const Mistake mistake : {Mistake::no_wait, Mistake::slot_not_empty, Mistake::too_many_arrivals}) {
    CHECK(found([&] { return !ends(mistake).empty() || !agrees(); }));
  }
  expect(error_of(boxes, 96, 8192, map, 4, 3, -5, -9, out.get(), Mistake::none), "initialise_barrier: 8 bytes at byte 8192");
  const auto refused = [&](const void* data, std::int64_t wide, int box_rows) {
    try {
      map_rows(data, rows, wide, box_rows);
    } catch (const std::exception& exception) {
      return std::string(exception.what());
    }
    return std::string();
  };
  expect(refused(in.get() + 4, 128, 32), "not aligned");
  expect(refused(in.get(), 132, 32), "multiple of 16 bytes");
  expect(refused(in.get(), 128, 257), "rows in a box");
}

// --------------------------------------------------------------------------------------------- a tile, both ways

/// 128 x 128 = (128 x depth) (128 x depth)', by cp.async, ldmatrix and mma.sync; no stages, no swizzle.
__global__ void tile_sm_80(const std::uint16_t* x, const std::uint16_t* y, int depth, float* out) {
  auto* shared = reinterpret_cast<std::uint16_t*>(device::shared_memory());
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  float sums[64] = {};
  for (int k0 = 0; k0 < depth; k0 += 64) {
    for (int i = thread; i < 2 * 128 * 8; i += 256) {
      const int row = i / 8 % 128, chunk = i % 8;
      device::copy_async(shared + 8 * i, (i < 1024 ? x : y) + row * depth + k0 + 8 * chunk, 16);
    }
    device::commit_copies();
    device::wait_copies<0>();
    __syncthreads();
    for (int k = 0; k < 64; k += 16) {
      std::uint32_t a[4], b[4];
      device::load_matrices(a, shared + (16 * warp + lane % 16) * 64 + k + 8 * (lane / 16));
      for (int j = 0; j < 16; j += 2) {
        device::load_matrices(b, shared + (128 + 8 * j + lane / 16 * 8 + lane % 8) * 64 + k + lane / 8 % 2 * 8);
        device::multiply_16x8x16(sums + 4 * j, a, b[0], b[1]);
        device::multiply_16x8x16(sums + 4 * j + 4, a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 64; ++i) {
    out[(16 * warp + lane / 4 + i % 4 / 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

/// The same by boxes and warpgroup products: thread 256 copies, two warpgroups multiply.
__global__ void tile_sm_90(const TensorMap x, const TensorMap y, int depth, float* out, Mistake mistake) {
  constexpr int kStages = 2, kBytes = 2 * 128 * 128;
  unsigned char* shared = device::shared_memory();
  auto* full = reinterpret_cast<std::uint64_t*>(shared + kStages * kBytes);
  auto* empty = full + kStages;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      device::initialise_barrier(full + stage, 1);
      device::initialise_barrier(empty + stage, 2);
    }
    device::publish_barriers();
  }
  __syncthreads();
  if (thread >= 256) {
    if (thread > 256) return;
    device::prefetch(&x);
    for (int step = 0; step < depth / 64; ++step) {
      const int stage = step % kStages, parity = step / kStages % 2;
      device::wait_barrier(empty + stage, parity ^ 1);
      device::arrive_expecting(full + stage, kBytes);
      device::copy_box(shared + kBytes * stage, &x, full + stage, 64 * step, 0);
      device::copy_box(shared + kBytes * stage + kBytes / 2, &y, full + stage, 64 * step, 0);
    }
    return;
  }
  float sums[64], seen = 0;
  for (int i = 0; i < 64; ++i) sums[i] = 0;
  for (int step = 0; step < depth / 64; ++step) {
    const int stage = step % kStages, parity = step / kStages % 2;
    device::wait_barrier(full + stage, parity);
    const unsigned char* a = shared + kBytes * stage + warp / 4 * 64 * 128;
    const unsigned char* b = shared + kBytes * stage + kBytes / 2;
    if (mistake != Mistake::no_begin) device::begin_products();
    for (int k = 0; k < 4; ++k) {
      std::uint64_t rows = device::operand_descriptor(a + 32 * k), columns = device::operand_descriptor(b + 32 * k);
      if (mistake == Mistake::swizzle) columns ^= std::uint64_t{3} << 62;  // 64 bytes
      if (mistake == Mistake::stride) rows ^= std::uint64_t{1024 >> 4 ^ 512 >> 4} << 32;
      if (mistake == Mistake::depth_step && k == 1) columns += 2;
      if (mistake != Mistake::one_warp_missing || warp != 5) device::multiply_64x128x16(sums, rows, columns, true);
      if (mistake == Mistake::written_too_early && k == 2 && step == 1) sums[9] = 0;
    }
    device::commit_products();
    if (mistake == Mistake::no_product_wait) {  // between the stage's products and its next content
      if (thread % 128 == 0) device::arrive(empty + stage);
    } else {
      if (mistake == Mistake::read_too_early) seen = sums[0];
      device::wait_products<0>();
      if (thread % 128 == 0) device::arrive(empty + stage);
    }
  }
  device::wait_products<0>();
  if (mistake == Mistake::read_too_early) sums[0] = seen;
  for (int i = 0; i < 64; ++i) {
    out[(16 * warp + lane / 4 + i % 4 / 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

/// The second product needs what the first left in the registers; the wait in between leaves one group under way.
__global__ void chained_products(const TensorMap x, float* out) {
  unsigned char* shared = device::shared_memory();
  auto* full = reinterpret_cast<std::uint64_t*>(shared + 128 * 128);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    device::initialise_barrier(full, 1);
    device::publish_barriers();
    device::arrive_expecting(full, 128 * 128);
    device::copy_box(shared, &x, full, 0, 0);
  }
  __syncthreads();
  device::wait_barrier(full, 0);
  float sums[64], others[64];
  for (int i = 0; i < 64; ++i) sums[i] = 7;
  device::begin_products();
  const std::uint64_t first = device::operand_descriptor(shared), second = device::operand_descriptor(shared + 64);
  device::multiply_64x128x16(sums, first, first, true);
  device::multiply_64x128x16(sums, second, second, true);
  device::commit_products();
  device::multiply_64x128x16(others, first, second, false);
  device::commit_products();
  device::wait_products<1>();
  for (int i = 0; i < 64; ++i) out[64 * thread + i] = sums[i];
  for (int i = 0; i < 64; ++i) out[64 * (256 + thread) + i] = others[i];  // a mistake
  device::wait_products<0>();
  for (int i = 0; i < 64; ++i) out[64 * (128 + thread) + i] = others[i];
}

void tiles() {
  const std::size_t depth = 192;
  Memory<std::uint16_t> x(128 * depth), y(128 * depth);
  fill(x, 4);
  fill(y, 5);
  Memory<float> out(128 * 128), expected(128 * 128);
  for (std::size_t i = 0; i < 128; ++i) {
    for (std::size_t j = 0; j < 128; ++j) {
      for (std::size_t k = 0; k < depth; ++k) expected[128 * i + j] += value(x[depth * i + k]) * value(y[depth * j + k]);
    }
  }
  const auto agrees = [&] { return std::memcmp(out.get(), expected.get(), out.size() * sizeof(float)) == 0; };
  const auto forget = [&] { std::memset(out.get(), 0xff, out.size() * sizeof(float)); };
  forget();
  run(tile_sm_80, 1, 256, 2 * 128 * 128, x.get(), y.get(), static_cast<int>(depth), out.get());
  CHECK(agrees());

  const TensorMap rows = map_rows(x.get(), 128, static_cast<std::int64_t>(depth), 128);
  const TensorMap columns = map_rows(y.get(), 128, static_cast<std::int64_t>(depth), 128);
  const auto ends = [&](Mistake mistake) {
    forget();
    return error_of(tile_sm_90, 288, 4 * 128 * 128 + 32, rows, columns, static_cast<int>(depth), out.get(), mistake);
  };
  CHECK(ends(Mistake::none).empty());
  CHECK(agrees());
  expect(ends(Mistake::no_begin), "begin_products is missing");
  expect(ends(Mistake::written_too_early), "accumulators were written while a product was under way");
  expect(ends(Mistake::one_warp_missing), "multiply_64x128x16 (other warps of its warpgroup are missing)");
  for (const Mistake mistake : {Mistake::swizzle, Mistake::stride, Mistake::depth_step}) {
    CHECK(ends(mistake).empty());
    CHECK(!agrees());
  }
  CHECK(ends(Mistake::read_too_early).empty());
  CHECK(std::isnan(out[0]) && !agrees());
  CHECK(found([&] { return !ends(Mistake::no_product_wait).empty() || !agrees(); }));

  Memory<float> pair(3 * 64 * 128);
  run(chained_products, 1, 128, 128 * 128 + 8, rows, pair.get());
  for (std::size_t i = 0; i < 64; ++i) {
    for (std::size_t j = 0; j < 128; ++j) {
      float same = 7, crossed = 0;
      for (std::size_t k = 0; k < 16; ++k) {
        const std::size_t second = k + 32;
        same += value(x[depth * i + k]) * value(x[depth * j + k]) + value(x[depth * i + second]) * value(x[depth * j + second]);
        crossed += value(x[depth * i + k]) * value(x[depth * j + second]);
      }
      const std::size_t thread = i / 16 * 32 + i % 8 * 4 + j % 8 / 2, index = j / 8 * 4 + i % 16 / 8 * 2 + j % 2;
      CHECK(pair[64 * thread + index] == same);
      CHECK(pair[64 * (128 + thread) + index] == crossed);
      CHECK(std::isnan(pair[64 * (256 + thread) + index]));
    }
  }
}

void races_show() {
  Memory<int> out(64);
  CHECK(found([&] {
    run(no_barrier, 1, 64, 256, out.get());
    for (int i = 0; i < 64; ++i) {
      if (out[static_cast<std::size_t>(i)] != (i ^ 32)) return true;
    }
    return false;
  }));
}

}  // namespace

int main() {
  for (std::int64_t seed = 0; seed < kSeeds; ++seed) {
    set_seed(seed);
    within_a_block();
    for_sm_80();
    barriers_and_boxes();
    tiles();
    races_show();
  }
  return check::report("emulation_test");
}
