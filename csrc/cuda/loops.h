// Main loops for every device: from two sets of rows to a tile of scores in registers.
//
// The one for scalars multiplies, or squares differences, in float or double. The one for tensor cores (sm_80) multiplies bfloat16 with
// cp.async and mma.sync; Hopper's own is in hopper.h.
#pragma once

#include "cuda/tile.h"
#include "pair/metric.h"

namespace b2m {
namespace cuda {

/// Both operands of one side of a problem, as main loops read them. depth 0: nothing to compute, the scores are 0.
struct Operands {
  const void* rows;
  const void* columns;
  std::int64_t row_count, column_count;
  int depth;       // elements of a part
  int row_stride;  // elements
  int column_stride;
  int products;
  Scoring scoring;  // distances are for scalars only
};

/// The pairs of parts whose products are summed, least significant first: the last `products` of these six.
__device__ __forceinline__ void parts_of(int products, int step, int& row_part, int& column_part) {
  const int number = 6 - products + step;  // (0,2) (2,0) (1,1) (0,1) (1,0) (0,0)
  row_part = number == 1 ? 2 : number == 2 || number == 4 ? 1 : 0;
  column_part = number == 0 ? 2 : number == 2 || number == 3 ? 1 : 0;
}

// -------------------------------------------------------------------------------------------------------------- scalars

template <class T>
struct ScalarLoop {
  using Value = T;
  static constexpr int kDepth = 16;
  static constexpr int kStride = kTile + 4;
  struct Shared {
    T rows[kDepth][kStride];
    T columns[kDepth][kStride];
  };

  static __device__ void load(const void* from, std::int64_t count, std::int64_t first, int stride, int depth, int k0,
                              T (&to)[kDepth][kStride]) {
    const T* data = static_cast<const T*>(from);
    for (int index = static_cast<int>(threadIdx.x); index < kTile * kDepth; index += kThreads) {
      const int row = index / kDepth, k = index % kDepth;
      const bool inside = first + row < count && k0 + k < depth;
      to[k][row] = inside ? data[(first + row) * stride + k0 + k] : T(0);
    }
  }

  static __device__ void run(const Operands& side, const Tile& tile, Shared& shared, T (&values)[kValues]) {
    const Place place;
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = T(0);
    const bool differences = side.scoring.metric >= Metric::sqeuclidean;
    for (int k0 = 0; k0 < side.depth; k0 += kDepth) {
      load(side.rows, side.row_count, tile.row0, side.row_stride, side.depth, k0, shared.rows);
      load(side.columns, side.column_count, tile.column0, side.column_stride, side.depth, k0, shared.columns);
      synchronise_tile();
      if (differences) {
        step(place, shared, values, [](T x, T y, T sum) { return (x - y) * (x - y) + sum; });
      } else {
        step(place, shared, values, [](T x, T y, T sum) { return x * y + sum; });
      }
      synchronise_tile();
    }
    if (side.scoring.metric == Metric::euclidean) {
      for_values(place, values, [](int, int, T& value) { value = pair::euclidean<T>(value); });
    } else if (side.scoring.metric == Metric::rbf) {
      const T gamma = static_cast<T>(side.scoring.gamma);
      for_values(place, values, [&](int, int, T& value) { value = pair::rbf<T>(value, gamma); });
    }
  }

  template <class Body>
  static __device__ __forceinline__ void step(const Place& place, const Shared& shared, T (&values)[kValues],
                                              const Body& body) {
#pragma unroll 2
    for (int k = 0; k < kDepth; ++k) {
      const T x[2] = {shared.rows[k][place.row(0)], shared.rows[k][place.row(1)]};
      for_values(place, values, [&](int h, int column, T& value) { value = body(x[h], shared.columns[k][column], value); });
    }
  }
};

// -------------------------------------------------------------------------------------------------------------- tensor cores, sm_80

/// kPrecise: products of several parts. Tensor cores truncate as they accumulate, so each 64 products are added to the sum in ordinary float.
template <bool kPrecise>
struct AmpereLoop {
  using Value = float;
  static constexpr int kStages = 3;
  static constexpr int kChunks = kDepthStep * 2 / 16;  // 16-byte chunks of a row of a stage
  struct alignas(128) Shared {
    std::uint16_t rows[kStages][kTile * kDepthStep];
    std::uint16_t columns[kStages][kTile * kDepthStep];
  };

  /// Chunks are stored exchanged by the row's number, so that eight rows of one chunk lie in different banks.
  static __device__ __forceinline__ int place_of(int row, int chunk) { return (row * kChunks + (chunk ^ (row % 8))) * 8; }

  static __device__ __forceinline__ void load(const void* from, std::int64_t count, std::int64_t first, int stride, int k,
                                              std::uint16_t* to) {
    const auto* data = static_cast<const std::uint16_t*>(from);
    for (int index = static_cast<int>(threadIdx.x); index < kTile * kChunks; index += kThreads) {
      const int row = index / kChunks, chunk = index % kChunks;
      const bool inside = first + row < count;
      device::copy_async(to + place_of(row, chunk), data + (inside ? first + row : 0) * stride + k + 8 * chunk,
                         inside ? 16 : 0);
    }
  }

  static __device__ __forceinline__ void load_stage(const Operands& side, const Tile& tile, int step, Shared& shared) {
    const int steps_of_part = side.depth / kDepthStep;
    if (step < side.products * steps_of_part) {
      int row_part, column_part;
      parts_of(side.products, step / steps_of_part, row_part, column_part);
      const int k = step % steps_of_part * kDepthStep;
      load(side.rows, side.row_count, tile.row0, side.row_stride, row_part * side.depth + k, shared.rows[step % kStages]);
      load(side.columns, side.column_count, tile.column0, side.column_stride, column_part * side.depth + k,
           shared.columns[step % kStages]);
    }
    device::commit_copies();
  }

  static __device__ __forceinline__ void multiply_stage(const Place& place, const std::uint16_t* rows,
                                                        const std::uint16_t* columns, float (&values)[kValues]) {
    const int lane = place.thread % 32, matrix = lane / 8, line = lane % 8;
#pragma unroll
    for (int kk = 0; kk < kDepthStep / 16; ++kk) {
      std::uint32_t a[4];
      device::load_matrices(a, rows + place_of(16 * place.warp + matrix % 2 * 8 + line, 2 * kk + matrix / 2));
#pragma unroll
      for (int pair = 0; pair < 8; ++pair) {
        std::uint32_t b[4];
        device::load_matrices(b, columns + place_of(16 * pair + matrix / 2 * 8 + line, 2 * kk + matrix % 2));
        device::multiply_16x8x16(values + 8 * pair, a, b[0], b[1]);
        device::multiply_16x8x16(values + 8 * pair + 4, a, b[2], b[3]);
      }
    }
  }

  static __device__ void run(const Operands& side, const Tile& tile, Shared& shared, float (&values)[kValues]) {
    const Place place;
    const int steps = side.products * (side.depth / kDepthStep);
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = 0;
    for (int step = 0; step < kStages - 1; ++step) load_stage(side, tile, step, shared);
    for (int step = 0; step < steps; ++step) {
      device::wait_copies<kStages - 2>();
      synchronise_tile();  // the stage is there for all, and the one before it has been read by all
      load_stage(side, tile, step + kStages - 1, shared);
      const std::uint16_t* rows = shared.rows[step % kStages];
      const std::uint16_t* columns = shared.columns[step % kStages];
      if (kPrecise) {
        float part[kValues] = {};
        multiply_stage(place, rows, columns, part);
#pragma unroll
        for (int i = 0; i < kValues; ++i) values[i] += part[i];
      } else {
        multiply_stage(place, rows, columns, values);
      }
    }
    device::wait_copies<0>();
    synchronise_tile();
  }
};

// -------------------------------------------------------------------------------------------------------------- kernel

/// A kernel's arguments: tiles, both sides (the second only where the epilogue wants one), and the epilogue's own.
template <class Epilogue>
struct TileArguments {
  Grid grid;
  Operands c;
  Operands t;
  typename Epilogue::Parameters parameters;
};

/// The main loop and the epilogue take turns: each ends with a barrier.
template <class Loop, class Epilogue>
union TileShared {
  typename Loop::Shared loop;
  typename Epilogue::Shared epilogue;
};

/// For every tile: scores of one side or of two, and the epilogue. Blocks take every gridDim.x-th tile.
template <class Loop, class Epilogue>
__global__ void __launch_bounds__(kThreads) tile_kernel(const __grid_constant__ TileArguments<Epilogue> arguments) {
  using T = typename Loop::Value;
  static_assert(sizeof(TileShared<Loop, Epilogue>) <= 99 * 1024, "what a block has on every device from sm_80 on");
  auto& shared = *reinterpret_cast<TileShared<Loop, Epilogue>*>(device::shared_memory());
  const int tiles = static_cast<int>(arguments.grid.tiles());
  for (int number = static_cast<int>(blockIdx.x); number < tiles; number += static_cast<int>(gridDim.x)) {
    const Tile tile(arguments.grid, number);
    if (tile.skipped) continue;
    T c[kValues];
    if constexpr (Epilogue::kSides == 2) {
      T t[kValues];
      Loop::run(arguments.t, tile, shared.loop, t);
      Loop::run(arguments.c, tile, shared.loop, c);
      Epilogue::apply(arguments.grid, arguments.parameters, tile, shared.epilogue, c, t);
    } else {
      Loop::run(arguments.c, tile, shared.loop, c);
      Epilogue::apply(arguments.grid, arguments.parameters, tile, shared.epilogue, c);
    }
    synchronise_tile();
  }
}

}  // namespace cuda
}  // namespace b2m
