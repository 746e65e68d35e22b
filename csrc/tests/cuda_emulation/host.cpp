// The host's side of an emulated device: what cuda/launch.cu has for a real one.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/launch.h"
#include "tests/cuda_emulation/map.h"

namespace b2m {
namespace cuda {

DeviceScope::DeviceScope(int device) : previous_(0) {
  if (device != 0) throw std::runtime_error("device " + std::to_string(device) + ": the emulation has device 0 only");
}
DeviceScope::~DeviceScope() { (void)previous_; }

void check_launch(const char*) {}

/// Few, and no power of two: blocks of small problems take several tiles, and not all take as many.
int multiprocessors(int) { return 3; }

bool use_hopper(int) {
  const char* value = std::getenv("B2M_CUDA_LOOP");
  if (!value || !*value || std::strcmp(value, "hopper") == 0) return true;
  if (std::strcmp(value, "ampere") == 0) return false;
  throw std::runtime_error("B2M_CUDA_LOOP is '" + std::string(value) + "'; expected hopper or ampere");
}

void allow_shared_memory(const void*, int, const char*) {}

TensorMap map_rows(const void* data, std::int64_t rows, std::int64_t columns, int box_rows) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::runtime_error(std::string("map_rows: ") + what);
  };
  // The limits of cuTensorMapEncodeTiled.
  require(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "the matrix is not aligned to 16 bytes");
  require(rows >= 1 && rows <= std::int64_t{1} << 32, "1 to 2^32 rows");
  require(columns >= 1 && columns <= std::int64_t{1} << 32, "1 to 2^32 columns");
  require(columns % 8 == 0, "rows are not a multiple of 16 bytes apart");
  require(box_rows >= 1 && box_rows <= 256, "1 to 256 rows in a box");
  const emulation::Map map{emulation::Map::kMark, static_cast<const unsigned char*>(data), rows, columns, box_rows};
  TensorMap encoded{};
  static_assert(sizeof map <= sizeof encoded.bytes, "a map must fit");
  std::memcpy(encoded.bytes, &map, sizeof map);
  return encoded;
}

}  // namespace cuda
}  // namespace b2m
