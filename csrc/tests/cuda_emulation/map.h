// What is in a TensorMap here.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace b2m {
namespace cuda {

struct TensorMap;

namespace emulation {

/// A row-major matrix of bfloat16 and the boxes of box_rows x 64 that are copied from it.
struct Map {
  static constexpr std::uint64_t kMark = 0x70616d20726f736e;
  std::uint64_t mark;
  const unsigned char* data;
  std::int64_t rows;
  std::int64_t columns;
  int box_rows;
};

inline Map decode(const TensorMap* map) {
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0)
    throw std::runtime_error("CUDA emulation: a TensorMap is not aligned to 64 bytes");
  Map decoded;
  std::memcpy(&decoded, static_cast<const void*>(map), sizeof decoded);
  if (decoded.mark != Map::kMark) throw std::runtime_error("CUDA emulation: a TensorMap that map_rows did not make");
  return decoded;
}

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
