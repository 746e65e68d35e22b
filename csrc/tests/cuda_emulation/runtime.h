// Executes the blocks of a kernel on the host, each thread of a block as a fiber, so that its barriers, layouts and races can be
// tested without a device.
//
// The order of threads is drawn from a seed (B2M_EMULATION_SEED, a number, 1 if not set): a schedule that fails can be repeated,
// and several seeds try several. What runs asynchronously on a device happens here at a time drawn as well: at once, while it is
// under way, or as late as the waits allow; until then memory keeps what it had, and accumulators of warpgroup products are NaN.
// Shared memory is NaN when a block begins.
//
// Mistakes that a device would answer with a hang or a wrong result end run_grid with std::runtime_error: threads that wait for
// each other, lanes of a warp in different collectives, too many arrivals, misaligned or stray addresses, products or boxes that
// nobody waited for, accumulators touched while products are under way.
//
// Layouts of operands and accumulators, bits of descriptors, and swizzles were compared element by element with those of CuTe
// (CUTLASS 4.2: MMA_Traits of SM80_16x8x16_F32BF16BF16F32_TN and SM90_64x128x16_F32BF16BF16_SS, GMMA::Layout_K_*_Atom,
// make_gmma_desc, Copy_Traits of SM75_U32x4_LDSM_N).
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>

namespace b2m {
namespace cuda {

struct TensorMap;

namespace emulation {

struct Index {
  unsigned x, y, z;
};

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();

/// Calls body for each thread of each block; blocks one after the other.
void run_grid(std::int64_t blocks, int threads, int shared_bytes, const std::function<void()>& body);

/// Rounded to nearest, ties to even; NaN as cvt.rn.bf16.f32 gives it.
inline std::uint32_t to_bfloat16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline float from_bfloat16(std::uint32_t half) {
  const std::uint32_t bits = half << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// What the functions of device.h call, from within a kernel; described there.
void exchange(void* value, std::size_t bytes, int mask);
void synchronise_warp();
void synchronise_block();
void synchronise(int barrier, int threads);
unsigned char* shared_memory();
std::uint32_t shared_address(const void* pointer);
void copy_async(void* shared, const void* global, int bytes);
void commit_copies();
void wait_copies(int pending);
void load_matrices(std::uint32_t* to, const void* shared);
void multiply_16x8x16(float* d, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1);
void initialise_barrier(std::uint64_t* barrier, int arrivals);
void publish_barriers();
void arrive(std::uint64_t* barrier, int bytes);
void wait_barrier(std::uint64_t* barrier, int parity);
void read_map(const TensorMap* map);
void copy_box(void* shared, const TensorMap* map, std::uint64_t* barrier, int column, int row);
void begin_products();
void commit_products();
void wait_products(int pending);
void multiply_64x128x16(float* d, std::uint64_t a, std::uint64_t b, bool accumulate);

}  // namespace emulation
}  // namespace cuda
}  // namespace b2m
