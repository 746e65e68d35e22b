// Hopper's main loop (sm_90a): the copy engine fills a ring of stages, two warpgroups multiply straight from shared memory.
//
// A block is persistent: it takes every gridDim.x-th tile, and its copies run ahead into the next tile during the epilogue of this one.
// With one side and one product two blocks fit a multiprocessor, so the tensor cores have the other block's products during an
// epilogue. One of the multiplying threads starts the copies: a warp of its own for them would be paid for with registers of all
// (96 instead of 128 a thread with two blocks, and spills).
#pragma once

#include "cuda/loops.h"

namespace b2m {
namespace cuda {

/// One side as the copy engine reads it: boxes of 128 rows x 64 elements of the matrices of all parts.
struct HopperSide {
  TensorMap rows;
  TensorMap columns;
  int depth;
  int products;
};

template <class Epilogue>
struct HopperArguments {
  HopperSide c;
  HopperSide t;
  Grid grid;
  typename Epilogue::Parameters parameters;
};

/// kPrecise as in AmpereLoop.
template <class Epilogue, bool kPrecise>
struct HopperKernel {
  static constexpr int kBlocks = kPrecise ? 1 : Epilogue::kBlocks;  // of a multiprocessor
  static constexpr int kStages = kBlocks == 2 ? 3 : 6;
  static constexpr int kStageElements = kTile * kDepthStep;
  static constexpr int kStageBytes = 2 * kStageElements * 2;

  struct alignas(1024) Shared {
    std::uint16_t rows[kStages][kStageElements];
    std::uint16_t columns[kStages][kStageElements];
    std::uint64_t full[kStages];
    std::uint64_t empty[kStages];
    typename Epilogue::Shared epilogue;
  };

  /// Where in the ring of stages a warp is.
  struct Ring {
    int stage = 0;
    int parity = 0;
    __device__ __forceinline__ void advance() {
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  };

  /// The thread that starts the copies: tile after tile, side after side, in the order in which they will be multiplied.
  struct Copier {
    const HopperArguments<Epilogue>& arguments;
    Shared& shared;
    int number = static_cast<int>(blockIdx.x);
    int side = 0, product = 0, k = 0;
    Ring ring;

    __device__ __forceinline__ Copier(const HopperArguments<Epilogue>& all, Shared& to) : arguments(all), shared(to) {}

    __device__ __forceinline__ const HopperSide& current() const {
      return Epilogue::kSides == 2 && side == 0 ? arguments.t : arguments.c;
    }
    /// Moves on to a tile and a side that have something to copy; false at the end.
    __device__ __forceinline__ bool find() {
      while (number < static_cast<int>(arguments.grid.tiles())) {
        if (side == Epilogue::kSides || (side == 0 && product == 0 && k == 0 && Tile(arguments.grid, number).skipped)) {
          side = 0;
          number += static_cast<int>(gridDim.x);
        } else if (current().depth == 0 || product == current().products) {
          product = 0;
          ++side;
        } else {
          return true;
        }
      }
      return false;
    }
    /// Starts filling the next stage, once it has been read.
    __device__ __forceinline__ void fill_next() {
      if (!find()) return;
      const HopperSide& from = current();
      const Tile tile(arguments.grid, number);
      int row_part, column_part;
      parts_of(from.products, product, row_part, column_part);
      std::uint64_t* full = &shared.full[ring.stage];
      device::wait_barrier(&shared.empty[ring.stage], ring.parity ^ 1);
      device::arrive_expecting(full, kStageBytes);
      device::copy_box(shared.rows[ring.stage], &from.rows, full, row_part * from.depth + k, static_cast<int>(tile.row0));
      device::copy_box(shared.columns[ring.stage], &from.columns, full, column_part * from.depth + k,
                       static_cast<int>(tile.column0));
      ring.advance();
      k += kDepthStep;
      if (k < from.depth) return;
      k = 0;
      ++product;
    }
  };

  /// The four products of 16 elements that a stage holds.
  static __device__ __forceinline__ void multiply_stage(const std::uint16_t* rows, const std::uint16_t* columns,
                                                        float (&values)[kValues], bool accumulate) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) device::pin(values[i]);
    device::begin_products();
#pragma unroll
    for (int kk = 0; kk < kDepthStep / 16; ++kk) {
      device::multiply_64x128x16(values, device::operand_descriptor(rows + 16 * kk),
                                 device::operand_descriptor(columns + 16 * kk), accumulate || kk > 0);
    }
    device::commit_products();
#pragma unroll
    for (int i = 0; i < kValues; ++i) device::pin(values[i]);
  }

  /// A warpgroup has read a stage; the copying thread fills the next.
  static __device__ __forceinline__ void release(Shared& shared, int stage, Copier& copier) {
    if (threadIdx.x % 128 == 0) device::arrive(&shared.empty[stage]);
    if (threadIdx.x == 0) copier.fill_next();
    device::synchronise_warp();
  }

  static __device__ __forceinline__ void multiply_side(const HopperSide& side, Shared& shared, Ring& ring, Copier& copier,
                                                       float (&values)[kValues]) {
    const int first_row = static_cast<int>(threadIdx.x) / 128 * 64 * kDepthStep;  // of the warpgroup, in elements
    const int steps = side.products * (side.depth / kDepthStep);
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = 0;
    int previous = -1;
    for (int step = 0; step < steps; ++step, ring.advance()) {
      device::wait_barrier(&shared.full[ring.stage], ring.parity);
      const std::uint16_t* rows = shared.rows[ring.stage] + first_row;
      const std::uint16_t* columns = shared.columns[ring.stage];
      if constexpr (kPrecise) {
        float part[kValues];
#pragma unroll
        for (int i = 0; i < kValues; ++i) part[i] = 0;
        multiply_stage(rows, columns, part, false);
        device::wait_products<0>();
#pragma unroll
        for (int i = 0; i < kValues; ++i) {
          device::pin(part[i]);
          values[i] += part[i];
        }
        release(shared, ring.stage, copier);
      } else {
        multiply_stage(rows, columns, values, true);
        device::wait_products<1>();  // the stage before this one has been read
        if (previous >= 0) release(shared, previous, copier);
        previous = ring.stage;
      }
    }
    device::wait_products<0>();
#pragma unroll
    for (int i = 0; i < kValues; ++i) device::pin(values[i]);
    if (previous >= 0) release(shared, previous, copier);
  }

  static __device__ __forceinline__ void run(const HopperArguments<Epilogue>& arguments) {
    auto& shared = *reinterpret_cast<Shared*>(device::shared_memory());
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        device::initialise_barrier(&shared.full[stage], 1);
        device::initialise_barrier(&shared.empty[stage], kThreads / 128);
      }
      device::publish_barriers();
    }
    __syncthreads();
    Ring ring;
    Copier copier(arguments, shared);
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) copier.fill_next();
    }
    device::synchronise_warp();
    const int tiles = static_cast<int>(arguments.grid.tiles());
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
      const Tile tile(arguments.grid, number);
      if (tile.skipped) continue;
      float c[kValues];
      if constexpr (Epilogue::kSides == 2) {
        float t[kValues];
        multiply_side(arguments.t, shared, ring, copier, t);
        multiply_side(arguments.c, shared, ring, copier, c);
        Epilogue::apply(arguments.grid, arguments.parameters, tile, shared.epilogue, c, t);
      } else {
        multiply_side(arguments.c, shared, ring, copier, c);
        Epilogue::apply(arguments.grid, arguments.parameters, tile, shared.epilogue, c);
      }
      synchronise_tile();
    }
  }
};

template <class Epilogue, bool kPrecise>
__global__ void __launch_bounds__(kThreads, HopperKernel<Epilogue, kPrecise>::kBlocks)
    hopper_kernel(const __grid_constant__ HopperArguments<Epilogue> arguments) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(B2M_CUDA_EMULATED)
  HopperKernel<Epilogue, kPrecise>::run(arguments);
#endif
}

}  // namespace cuda
}  // namespace b2m
