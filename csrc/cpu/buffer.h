// Scratch memory aligned to cache lines and vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace b2m {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t count) : count_(count) {
    if (count <= 0) return;
    const std::size_t wanted = static_cast<std::size_t>(count) * sizeof(T);
    const std::size_t alignment = wanted < kLarge ? kAlignment : kHugePage;
    const std::size_t bytes = (wanted + alignment - 1) / alignment * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (!data_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // or not: nothing depends on it
#endif
  }
  Buffer(std::int64_t count, T value) : Buffer(count) { fill(value); }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::int64_t size() const { return count_; }
  T& operator[](std::int64_t i) { return data_[i]; }
  const T& operator[](std::int64_t i) const { return data_[i]; }
  void fill(T value) {
    for (std::int64_t i = 0; i < count_; ++i) data_[i] = value;
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  // Memory of this size comes fresh from the system, and touching it page by page takes as long as computing does: a step of
  // rsa_penalty on 256 x 47,104 features took 245 ms of CPU with pages of 4 KiB and takes 203 with huge ones.
  static constexpr std::size_t kHugePage = std::size_t{1} << 21, kLarge = 2 * kHugePage;
  T* data_ = nullptr;
  std::int64_t count_ = 0;
};

}  // namespace b2m
