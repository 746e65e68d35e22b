// What the sanitizers must be told of; nothing where they are off.
//
// For the thread sanitizer each fiber is a thread, ordered only by what orders a kernel's threads. The emulation's own files are
// compiled without it, and report here what kernels make them do to memory.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define B2M_ADDRESS_SANITIZER 1
#endif
// B2M_EMULATION_THREAD_SANITIZER is defined by the build: these files cannot see it.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define B2M_ADDRESS_SANITIZER 1
#endif
#endif

#if defined(B2M_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(B2M_EMULATION_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void* address, unsigned long size);
extern "C" void __tsan_write_range(void* address, unsigned long size);
#endif

namespace b2m {
namespace cuda {
namespace emulation {

inline void forbid(const void* memory, std::size_t size) {
#if defined(B2M_ADDRESS_SANITIZER)
  ASAN_POISON_MEMORY_REGION(memory, size);
#else
  (void)memory, (void)size;
#endif
}
inline void permit(const void* memory, std::size_t size) {
#if defined(B2M_ADDRESS_SANITIZER)
  ASAN_UNPOISON_MEMORY_REGION(memory, size);
#else
  (void)memory, (void)size;
#endif
}

#if defined(B2M_EMULATION_THREAD_SANITIZER)
inline void read(const void* memory, std::size_t size) { __tsan_read_range(const_cast<void*>(memory), size); }
inline void write(void* memory, std::size_t size) { __tsan_write_range(memory, size); }
/// What was done before a release comes before what is done after an acquire of the same object.
inline void release(void* object) { __tsan_release(object); }
inline void acquire(void* object) { __tsan_acquire(object); }
inline void* new_identity() { return __tsan_create_fiber(0); }
inline void* own_identity() { return __tsan_get_current_fiber(); }
inline void delete_identity(void* identity) { __tsan_destroy_fiber(identity); }
inline void become(void* identity) { __tsan_switch_to_fiber(identity, __tsan_switch_to_fiber_no_sync); }
#else
inline void read(const void*, std::size_t) {}
inline void write(void*, std::size_t) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void* new_identity() { return nullptr; }
inline void* own_identity() { return nullptr; }
inline void delete_identity(void*) {}
inline void become(void*) {}
#endif

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
