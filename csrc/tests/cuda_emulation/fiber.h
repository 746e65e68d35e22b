// Fibers: stacks of their own, switched by hand.
#pragma once

#include <cstddef>

namespace b2m {
namespace cuda {
namespace emulation {

/// One stack and the place where its execution stopped. A default one stands for the stack of the caller.
struct Fiber {
  void* stopped = nullptr;  // its stack pointer (or context)
  unsigned char* low = nullptr;
  std::size_t size = 0;
  void* fake_stack = nullptr;  // of the address sanitizer
  void* identity = nullptr;    // of the thread sanitizer
};

/// `count` stacks, with a page that must not be touched below each.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  int count() const { return count_; }
  /// Gives a fiber stack number `index`.
  void give(int index, Fiber& fiber) const;
  /// After fibers were left for good in the middle of something.
  void clean() const;

 private:
  int count_;
  unsigned char* memory_;
};

/// Makes a fiber start at `entry`, which must call `begin_fiber` first and must not return.
void prepare_fiber(Fiber& fiber, void (*entry)());

/// To be called where a fiber begins; `from`: the fiber that was left for it.
void begin_fiber(Fiber& from);

/// Stops `from`, continues `to`; returns when `from` is continued.
void switch_fiber(Fiber& from, Fiber& to);

/// The same; `from` will not be continued.
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
