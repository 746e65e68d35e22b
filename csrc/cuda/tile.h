// A tile of pair scores in the registers of a block: who holds what, and how rows, columns and the whole are summed.
//
// 256 threads (8 warps) hold 128 x 128 values, 64 a thread, in the layout that the tensor cores of sm_80 and sm_90 share: warp w has
// rows 16 w to 16 w + 15, and value 4 j + 2 h + e of a lane is row lane / 4 + 8 h, column 8 j + 2 (lane % 4) + e.
#pragma once

#include "b2m/cuda.h"
#include "cuda/device.h"
#include "pair/math.h"

namespace b2m {
namespace cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kValues = kTile * kTile / kThreads;

/// Barrier of the threads that hold the tile; barrier 0 is __syncthreads.
__device__ __forceinline__ void synchronise_tile() { device::synchronise(1, kThreads); }

/// A thread's place in the tile.
struct Place {
  int thread, warp, group, quad;
  __device__ __forceinline__ Place()
      : thread(static_cast<int>(threadIdx.x)), warp(thread / 32), group(thread % 32 / 4), quad(thread % 4) {}
  __device__ __forceinline__ int row(int h) const { return 16 * warp + group + 8 * h; }
  __device__ __forceinline__ int column(int j, int e) const { return 8 * j + 2 * quad + e; }
};

/// Calls body(h, column, value) for each value of the thread: h 0 or 1 tells the row, column is within the tile.
template <class T, class Body>
__device__ __forceinline__ void for_values(const Place& place, T (&values)[kValues], const Body& body) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int e = 0; e < 2; ++e) body(h, place.column(j, e), values[4 * j + 2 * h + e]);
    }
  }
}

template <class T>
__device__ __forceinline__ T larger(T a, T b) {  // a NaN is passed over
  return a > b || b != b ? a : b;
}
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Maximum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return larger(a, b);
  }
};

/// Of the four lanes that share a row.
template <class T, class Operation>
__device__ __forceinline__ T over_row(T value, const Operation& combine) {
  value = combine(value, device::exchange(value, 1));
  return combine(value, device::exchange(value, 2));
}

template <class T, class Operation>
__device__ __forceinline__ T over_warp(T value, const Operation& combine) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value = combine(value, device::exchange(value, mask));
  return value;
}

/// Of the eight lanes that share columns: each brings eight values, lane group g takes the total of value g. Seven exchanges instead of 24:
/// each step hands over the half of the values that the partner will keep.
template <class T, class Operation>
__device__ __forceinline__ T over_columns(const Place& place, T (&v)[8], const Operation& combine) {
  const bool upper4 = place.group & 4, upper2 = place.group & 2, upper1 = place.group & 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T given = device::exchange(upper4 ? v[i] : v[i + 4], 16);
    v[i] = combine(upper4 ? v[i + 4] : v[i], given);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const T given = device::exchange(upper2 ? v[i] : v[i + 2], 8);
    v[i] = combine(upper2 ? v[i + 2] : v[i], given);
  }
  const T given = device::exchange(upper1 ? v[0] : v[1], 4);
  return combine(upper1 ? v[1] : v[0], given);
}

/// Of a warp's 16 rows, per column: value_of(h, column, value) summed (or otherwise combined) into to[column] of the warp's line.
template <class T, class Operation, class Body>
__device__ __forceinline__ void reduce_columns(const Place& place, T (&values)[kValues], T (&to)[kTile],
                                               const Operation& combine, const Body& value_of) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    T v[8];
#pragma unroll
    for (int q = 0; q < 8; ++q) {
      const int j = 4 * k + q / 2, e = q % 2;
      v[q] =
          combine(value_of(0, place.column(j, e), values[4 * j + e]), value_of(1, place.column(j, e), values[4 * j + 2 + e]));
    }
    const T total = over_columns(place, v, combine);
    to[place.column(4 * k + place.group / 2, place.group % 2)] = total;
  }
}

/// The lines of all warps together, for one column; in the order of the warps.
template <class T, class Operation>
__device__ __forceinline__ T over_lines(const T (&lines)[kWarps][kTile], int column, const Operation& combine) {
  T total = lines[0][column];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total = combine(total, lines[warp][column]);
  return total;
}

/// Of all threads; the result in every thread. `lines` is scratch; ends without a barrier of its own: do not write `lines` before one.
template <class T, class Operation>
__device__ __forceinline__ T over_tile(const Place& place, T value, T (&lines)[kWarps], const Operation& combine) {
  value = over_warp(value, combine);
  if (place.thread % 32 == 0) lines[place.warp] = value;
  synchronise_tile();
  T total = lines[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total = combine(total, lines[warp]);
  return total;
}

/// exp in the kernels: of the hardware in float, whose error grows with |x| but so does that of the logit itself.
__device__ __forceinline__ float exponential(float x) { return device::power_of_two(x * 1.44269504088896341f); }
__device__ __forceinline__ double exponential(double x) { return pair::exp<double>(x); }

/// Which tiles a launch visits, in an order that lets blocks that run together share rows and columns in the second-level cache.
struct Grid {
  std::int64_t row_begin, row_end;        // rows of the band
  std::int64_t column_begin, column_end;  // columns it meets
  bool upper;                             // tiles below the diagonal are left out

  __host__ __device__ int row_tiles() const { return static_cast<int>((row_end - row_begin + kTile - 1) / kTile); }
  __host__ __device__ int column_tiles() const { return static_cast<int>((column_end - column_begin + kTile - 1) / kTile); }
  __host__ __device__ std::int64_t tiles() const { return static_cast<std::int64_t>(row_tiles()) * column_tiles(); }
  __host__ __device__ std::int64_t padded_rows() const { return static_cast<std::int64_t>(row_tiles()) * kTile; }
  __host__ __device__ std::int64_t padded_columns() const { return static_cast<std::int64_t>(column_tiles()) * kTile; }
};

/// One tile of a grid. A launch has fewer than 2^31 of them (run.h), so their numbers are 32-bit; what they count is not.
struct Tile {
  int row_tile, column_tile;   // within the grid
  int rows, columns;           // that exist
  std::int64_t row0, column0;  // of the problem
  bool skipped;

  __device__ __forceinline__ Tile(const Grid& grid, int number) {
    constexpr int kGroup = 16;  // rows of tiles that go through the columns together
    const int columns_all = grid.column_tiles();
    const int group = number / (kGroup * columns_all), within = number - group * (kGroup * columns_all);
    const int left = grid.row_tiles() - group * kGroup, height = left < kGroup ? left : kGroup;
    column_tile = within / height;
    row_tile = group * kGroup + within - column_tile * height;
    row0 = grid.row_begin + static_cast<std::int64_t>(row_tile) * kTile;
    column0 = grid.column_begin + static_cast<std::int64_t>(column_tile) * kTile;
    const std::int64_t rows_left = grid.row_end - row0, columns_left = grid.column_end - column0;
    rows = static_cast<int>(rows_left < kTile ? rows_left : kTile);
    columns = static_cast<int>(columns_left < kTile ? columns_left : kTile);
    skipped = grid.upper && column0 < row0;
  }
  /// Its number in arrays of one entry per tile.
  __device__ __forceinline__ std::int64_t index(const Grid& grid) const {
    return static_cast<std::int64_t>(row_tile) * grid.column_tiles() + column_tile;
  }
  __device__ __forceinline__ bool whole() const { return rows == kTile && columns == kTile; }
};

}  // namespace cuda
}  // namespace b2m
