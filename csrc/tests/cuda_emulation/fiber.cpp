#include "tests/cuda_emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

#include "tests/cuda_emulation/sanitizers.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace b2m {
namespace cuda {
namespace emulation {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024;

std::size_t page_bytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

// --------------------------------------------------------------------------------------------- the switch itself

// b2m_emulation_switch(&from, to): pushes the registers that a call preserves, stores the stack pointer, takes the other one,
// pops, returns to where that one had called. What the floating point unit is set to stays as it is.
#if defined(__x86_64__)

extern "C" void b2m_emulation_switch(void** from, void* to);
asm(R"(
.text
.balign 16
.globl b2m_emulation_switch
.hidden b2m_emulation_switch
.type b2m_emulation_switch, @function
b2m_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size b2m_emulation_switch, .-b2m_emulation_switch
)");

void prepare_fiber(Fiber& fiber, void (*entry)()) {
  // From the top: a return address for `entry` (none; it also leaves the stack aligned as after a call), entry, six registers.
  auto* top = reinterpret_cast<std::uint64_t*>(fiber.low + fiber.size);
  std::memset(top - 8, 0, 8 * sizeof *top);
  top[-2] = reinterpret_cast<std::uint64_t>(entry);
  fiber.stopped = top - 8;
}

#elif defined(__aarch64__)

extern "C" void b2m_emulation_switch(void** from, void* to);
asm(R"(
.text
.balign 16
.globl b2m_emulation_switch
.hidden b2m_emulation_switch
.type b2m_emulation_switch, %function
b2m_emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size b2m_emulation_switch, .-b2m_emulation_switch
)");

void prepare_fiber(Fiber& fiber, void (*entry)()) {
  auto* registers = reinterpret_cast<std::uint64_t*>(fiber.low + fiber.size) - 20;
  std::memset(registers, 0, 20 * sizeof *registers);
  registers[11] = reinterpret_cast<std::uint64_t>(entry);  // x30
  fiber.stopped = registers;
}

#else

namespace {
void b2m_emulation_switch(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
}  // namespace

void prepare_fiber(Fiber& fiber, void (*entry)()) {
  // The first context lies at the low end of the stack; later ones on the stack itself.
  auto* context = new (fiber.low) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = fiber.low + sizeof(ucontext_t);
  context->uc_stack.ss_size = fiber.size - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber.stopped = context;
}

#endif

// ------------------------------------------------------------------------------------------ and what it must say

void begin_fiber(Fiber& from) {
#if defined(B2M_ADDRESS_SANITIZER)
  const void* low = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(nullptr, &low, &size);
  from.low = static_cast<unsigned char*>(const_cast<void*>(low));  // new to us if it is the caller's stack
  from.size = size;
#else
  (void)from;
#endif
}

void switch_fiber(Fiber& from, Fiber& to) {
#if defined(B2M_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.low, to.size);
#endif
  become(to.identity);
  b2m_emulation_switch(&from.stopped, to.stopped);
#if defined(B2M_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void leave_fiber(Fiber& from, Fiber& to) {
#if defined(B2M_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(nullptr, to.low, to.size);
#endif
  become(to.identity);
  b2m_emulation_switch(&from.stopped, to.stopped);
  __builtin_unreachable();
}

// ----------------------------------------------------------------------------------------------------------- stacks

Stacks::Stacks(int count) : count_(count) {
  const std::size_t each = kStackBytes + page_bytes();
  void* memory = mmap(nullptr, each * static_cast<std::size_t>(count), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<unsigned char*>(memory);
  for (int index = 0; index < count; ++index) {
    if (mprotect(memory_ + each * static_cast<std::size_t>(index), page_bytes(), PROT_NONE) != 0) {
      munmap(memory_, each * static_cast<std::size_t>(count));
      throw std::bad_alloc();
    }
  }
}

Stacks::~Stacks() {
  clean();
  munmap(memory_, (kStackBytes + page_bytes()) * static_cast<std::size_t>(count_));
}

void Stacks::give(int index, Fiber& fiber) const {
  fiber.low = memory_ + (kStackBytes + page_bytes()) * static_cast<std::size_t>(index) + page_bytes();
  fiber.size = kStackBytes;
}

void Stacks::clean() const {
  for (int index = 0; index < count_; ++index) {
    Fiber fiber;
    give(index, fiber);
    permit(fiber.low, fiber.size);
  }
}

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
