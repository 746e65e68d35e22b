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

  /// Where in the ring of stages somebody is.
  struct Ring {
    int stage;
    int parity;
    __device__ __forceinline__ void advance() {
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  };

  /// What the copying thread will copy next. In shared memory: registers are what a block is short of.
  struct Copier {
    int number, side, product, k;
    int row0, column0;  // of the tile
    Ring ring;
  };

  struct alignas(1024) Shared {
    std::uint16_t rows[kStages][kStageElements];
    std::uint16_t columns[kStages][kStageElements];
    std::uint64_t full[kStages];
    std::uint64_t empty[kStages];
    Copier copier;
    typename Epilogue::Shared epilogue;
  };

  /// Starts the next copy: tile after tile, side after side, in the order in which they will be multiplied. For the copying thread.
  static __device__ __forceinline__ void fill_next(const HopperArguments<Epilogue>& arguments, Shared& shared) {
    Copier copier = shared.copier;
    if (find(arguments, copier)) {
      const HopperSide& from = side_of(arguments, copier.side);
      int row_part, column_part;
      parts_of(kPrecise ? from.products : 1, copier.product, row_part, column_part);
      std::uint64_t* full = &shared.full[copier.ring.stage];
      device::wait_barrier(&shared.empty[copier.ring.stage], copier.ring.parity ^ 1);
      device::arrive_expecting(full, kStageBytes);
      device::copy_box(shared.rows[copier.ring.stage], &from.rows, full, row_part * from.depth + copier.k, copier.row0);
      device::copy_box(shared.columns[copier.ring.stage], &from.columns, full, column_part * from.depth + copier.k,
                       copier.column0);
      copier.ring.advance();
      copier.k += kDepthStep;
      if (copier.k >= from.depth) {
        copier.k = 0;
        ++copier.product;
      }
    }
    shared.copier = copier;
  }

  static __device__ __forceinline__ const HopperSide& side_of(const HopperArguments<Epilogue>& arguments, int side) {
    return Epilogue::kSides == 2 && side == 0 ? arguments.t : arguments.c;
  }

  /// Moves on to a tile and a side that have something to copy; false at the end.
  static __device__ __forceinline__ bool find(const HopperArguments<Epilogue>& arguments, Copier& copier) {
    while (copier.number < static_cast<int>(arguments.grid.tiles())) {
      bool leave = copier.side == Epilogue::kSides;
      if (copier.side + copier.product + copier.k == 0) {
        const Tile tile(arguments.grid, copier.number);
        copier.row0 = static_cast<int>(tile.row0);
        copier.column0 = static_cast<int>(tile.column0);
        leave = tile.skipped;
      }
      if (leave) {
        copier.side = 0;
        copier.number += static_cast<int>(gridDim.x);
        continue;
      }
      const HopperSide& side = side_of(arguments, copier.side);
      if (side.depth > 0 && copier.product < (kPrecise ? side.products : 1)) return true;
      copier.product = 0;
      ++copier.side;
    }
    return false;
  }

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
  static __device__ __forceinline__ void release(const HopperArguments<Epilogue>& arguments, Shared& shared, int stage) {
    if (threadIdx.x % 128 == 0) device::arrive(&shared.empty[stage]);
    if (threadIdx.x == 0) fill_next(arguments, shared);
    device::synchronise_warp();
  }

  static __device__ __forceinline__ void multiply_side(const HopperArguments<Epilogue>& arguments, const HopperSide& side,
                                                       Shared& shared, Ring& ring, float (&values)[kValues]) {
    const int first_row = static_cast<int>(threadIdx.x) / 128 * 64 * kDepthStep;  // of the warpgroup, in elements
    const int steps = (kPrecise ? side.products : 1) * (side.depth / kDepthStep);
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
        release(arguments, shared, ring.stage);
      } else {
        multiply_stage(rows, columns, values, true);
        device::wait_products<1>();  // the stage before this one has been read
        if (previous >= 0) release(arguments, shared, previous);
        previous = ring.stage;
      }
    }
    device::wait_products<0>();
#pragma unroll
    for (int i = 0; i < kValues; ++i) device::pin(values[i]);
    if (previous >= 0) release(arguments, shared, previous);
  }

  static __device__ __forceinline__ void run(const HopperArguments<Epilogue>& arguments) {
    static_assert(kBlocks * (sizeof(Shared) + 1024) <= 228 * 1024, "so many blocks must fit a multiprocessor");
    auto& shared = *reinterpret_cast<Shared*>(device::shared_memory());
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        device::initialise_barrier(&shared.full[stage], 1);
        device::initialise_barrier(&shared.empty[stage], kThreads / 128);
      }
      device::publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      shared.copier = {static_cast<int>(blockIdx.x), 0, 0, 0, 0, 0, {0, 0}};
      for (int stage = 0; stage < kStages; ++stage) fill_next(arguments, shared);
    }
    device::synchronise_warp();
    Ring ring{0, 0};
    const int tiles = static_cast<int>(arguments.grid.tiles());
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
      const Tile tile(arguments.grid, number);
      if (tile.skipped) continue;
      float c[kValues];
      if constexpr (Epilogue::kSides == 2) {
        float t[kValues];
        multiply_side(arguments, arguments.t, shared, ring, t);
        multiply_side(arguments, arguments.c, shared, ring, c);
        Epilogue::apply(arguments.grid, arguments.parameters, tile, shared.epilogue, c, t);
      } else {
        multiply_side(arguments, arguments.c, shared, ring, c);
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
