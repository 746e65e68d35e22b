// The functions of cuda/device.h and what CUDA C++ adds to C++, for kernels compiled as C++ and executed on the host.
//
// Included by cuda/device.h where B2M_CUDA_EMULATED is defined. What a kernel uses beyond this does not compile: add it here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tests/cuda_emulation/runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
// One block runs at a time on a thread of the host, and all its threads run there.
#define __shared__ static thread_local

#define threadIdx (::b2m::cuda::emulation::thread_index())
#define blockIdx (::b2m::cuda::emulation::block_index())
#define blockDim (::b2m::cuda::emulation::block_size())
#define gridDim (::b2m::cuda::emulation::grid_size())

inline void __syncthreads() { b2m::cuda::emulation::synchronise_block(); }
inline void __syncwarp() { b2m::cuda::emulation::synchronise_warp(); }

// CUDA has these in the global namespace.
using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace b2m {
namespace cuda {

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

namespace device {

// ------------------------------------------------------------------------------------------------ within a block

inline float exchange(float value, int mask) {
  emulation::exchange(&value, sizeof value, mask);
  return value;
}
inline double exchange(double value, int mask) {
  emulation::exchange(&value, sizeof value, mask);
  return value;
}

inline void synchronise_warp() { emulation::synchronise_warp(); }
inline void synchronise(int barrier, int threads) { emulation::synchronise(barrier, threads); }

inline unsigned char* shared_memory() { return emulation::shared_memory(); }
inline std::uint32_t shared_address(const void* pointer) { return emulation::shared_address(pointer); }

inline std::uint32_t pack_bfloat16(float low, float high) {
  return emulation::to_bfloat16(low) | emulation::to_bfloat16(high) << 16;
}

/// The device's is off by up to two units in the last place; this is the nearest.
inline float power_of_two(float x) {
  const float result = std::exp2(x);
  return result < std::numeric_limits<float>::min() ? 0 : result;
}

// ------------------------------------------------------------------------------------ sm_80: copies and products

inline void copy_async(void* shared, const void* global, int bytes) { emulation::copy_async(shared, global, bytes); }
inline void commit_copies() { emulation::commit_copies(); }
template <int kPending>
inline void wait_copies() {
  emulation::wait_copies(kPending);
}

inline void load_matrices(std::uint32_t (&to)[4], const void* shared) { emulation::load_matrices(to, shared); }
inline void multiply_16x8x16(float* d, const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulation::multiply_16x8x16(d, a, b0, b1);
}

// ---------------------------------------------------------------------------------- sm_90a: barriers, TMA, wgmma

inline void initialise_barrier(std::uint64_t* barrier, int arrivals) { emulation::initialise_barrier(barrier, arrivals); }
inline void publish_barriers() { emulation::publish_barriers(); }
inline void arrive(std::uint64_t* barrier) { emulation::arrive(barrier, 0); }
inline void arrive_expecting(std::uint64_t* barrier, int bytes) { emulation::arrive(barrier, bytes); }
inline void wait_barrier(std::uint64_t* barrier, int parity) { emulation::wait_barrier(barrier, parity); }

inline void prefetch(const TensorMap* map) { emulation::read_map(map); }
inline void copy_box(void* shared, const TensorMap* map, std::uint64_t* barrier, int column, int row) {
  emulation::copy_box(shared, map, barrier, column, row);
}

inline void begin_products() { emulation::begin_products(); }
inline void commit_products() { emulation::commit_products(); }
template <int kPending>
inline void wait_products() {
  emulation::wait_products(kPending);
}
inline void pin(float&) {}

inline std::uint64_t operand_descriptor(const void* shared) {
  const std::uint64_t address = (shared_address(shared) & 0x3ffffu) >> 4;
  return address | (std::uint64_t{1} << 16) | (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 62);
}
inline void multiply_64x128x16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool accumulate) {
  emulation::multiply_64x128x16(d, a, b, accumulate);
}

}  // namespace device
}  // namespace cuda
}  // namespace b2m
