// What the comparisons of two similarity matrices do with a tile of raw scores of each; see b2m/cuda.h for what goes in and out.
#pragma once

#include "cuda/scores.h"
#include "pair/rsa.h"

namespace b2m {
namespace cuda {

/// Scores and weight of one pair.
template <class T>
struct Pair {
  T c, t, w;
};

/// Stored scores of a band; data null: there are none.
template <class T>
struct Stored {
  const T* data;
  std::int64_t stride;
  /// Those of a tile.
  __device__ __forceinline__ Stored of(const Tile& tile) const {
    return {data ? data + static_cast<std::int64_t>(tile.row_tile) * kTile * stride + tile.column_tile * kTile : nullptr,
            stride};
  }
  __device__ __forceinline__ T at(int row, int column, T otherwise) const {
    return data ? data[row * stride + column] : otherwise;
  }
};

template <class T>
struct PairView {
  Stored<T> c, t, w;
  Scoring scoring;  // of c
};

/// Calls body(h, column, pair, c, t) for each pair i < j of the tile that a thread holds; c and t are the values of the main loop, to be
/// replaced. Where there is no pair they become 0.
template <class T, class Body>
__device__ __forceinline__ void for_pairs(const PairView<T>& view, const Place& place, const Tile& tile, T (&c)[kValues],
                                          T (&t)[kValues], const Body& body) {
  const Stored<T> stored_c = view.c.of(tile), stored_t = view.t.of(tile), stored_w = view.w.of(tile);
  // i < j, the tile's first row and column being at most a tile apart where it matters.
  const std::int64_t apart = tile.column0 - tile.row0;
  const int offset = apart < kTile ? static_cast<int>(apart) : kTile;
#pragma unroll
  for (int index = 0; index < kValues; ++index) {
    const int h = index / 2 % 2, row = place.row(h), column = place.column(index / 4, index % 2);
    if (row < column + offset && row < tile.rows && column < tile.columns) {
      const Pair<T> pair{stored_c.at(row, column, c[index]), stored_t.at(row, column, t[index]),
                         stored_w.at(row, column, T(1))};
      body(h, column, pair, c[index], t[index]);
    } else {
      c[index] = T(0);
      t[index] = T(0);
    }
  }
}

/// Sums of w and of w (F(c) - F(t))^2 and, if weighed, the gradient of the latter.
template <class T, bool weigh>
struct DifferenceOfPairs {
  static constexpr int kSides = 2;
  static constexpr int kBlocks = 1;
  struct Parameters {
    PairView<T> view;
    Transform transform;
    T epsilon;
    double* weight_partials;
    double* total_partials;
    Weights weights;  // if weighed
  };
  struct Shared {
    double sums[2][kWarps];
  };
  static __device__ void apply(const Grid& grid, const Parameters& to, const Tile& tile, Shared& shared, T (&c)[kValues],
                               T (&t)[kValues]) {
    const Place place;
    T weight = T(0), total = T(0);
    for_pairs(to.view, place, tile, c, t, [&](int, int, const Pair<T>& pair, T& value, T&) {
      const bool atanh = to.transform == Transform::atanh;
      const T difference = atanh ? pair::atanh_difference<T>(pair.c, pair.t, to.epsilon) : pair.c - pair.t;
      weight += pair.w;
      total += pair.w * difference * difference;
      if constexpr (weigh) {
        const T slope = atanh ? pair::atanh_slope<T>(pair.c, to.epsilon) : T(1);
        value = T(2) * pair.w * difference * slope * score_derivative(to.view.scoring, pair.c);
      }
    });
    const double all_weight = over_tile(place, static_cast<double>(weight), shared.sums[0], Sum());
    const double all_total = over_tile(place, static_cast<double>(total), shared.sums[1], Sum());
    if (place.thread == 0) {
      to.weight_partials[tile.index(grid)] = all_weight;
      to.total_partials[tile.index(grid)] = all_total;
    }
    if constexpr (weigh) write_weights(to.weights, tile, c);
  }
};
template <class T>
using SquaredDifference = DifferenceOfPairs<T, false>;
template <class T>
using DifferenceWeights = DifferenceOfPairs<T, true>;

template <class T>
struct Moments {
  static constexpr int kSides = 2;
  static constexpr int kBlocks = 1;
  struct Parameters {
    PairView<T> view;
    const double* shifts;
    double* partials;  // [6][tiles]
    double* rows;      // [c, t][column tiles][padded rows], or null
    double* columns;   // [c, t][row tiles][padded columns]
  };
  struct Shared {
    double sums[6][kWarps];
    T lines[kWarps][kTile];
  };
  static __device__ void apply(const Grid& grid, const Parameters& to, const Tile& tile, Shared& shared, T (&c)[kValues],
                               T (&t)[kValues]) {
    const Place place;
    const T c_shift = static_cast<T>(to.shifts[0]), t_shift = static_cast<T>(to.shifts[1]);
    T sums[6] = {};
    T row_sums[2][2] = {};
    for_pairs(to.view, place, tile, c, t, [&](int h, int, const Pair<T>& pair, T& c_value, T& t_value) {
      c_value = pair.c - c_shift;
      t_value = pair.t - t_shift;
      row_sums[0][h] += c_value;
      row_sums[1][h] += t_value;
      sums[0] += pair.w;
      sums[1] += pair.w * c_value;
      sums[2] += pair.w * t_value;
      sums[3] += pair.w * c_value * c_value;
      sums[4] += pair.w * t_value * t_value;
      sums[5] += pair.w * c_value * t_value;
    });
#pragma unroll
    for (int quantity = 0; quantity < 6; ++quantity) {
      const double total = over_tile(place, static_cast<double>(sums[quantity]), shared.sums[quantity], Sum());
      if (place.thread == 0) to.partials[quantity * grid.tiles() + tile.index(grid)] = total;
    }
    if (!to.rows) return;
    side_sums(grid, to, tile, place, shared, c, row_sums[0], 0);
    side_sums(grid, to, tile, place, shared, t, row_sums[1], 1);
  }

  /// Sums over the rows and over the columns of one side's scores.
  static __device__ __forceinline__ void side_sums(const Grid& grid, const Parameters& to, const Tile& tile, const Place& place,
                                                   Shared& shared, T (&values)[kValues], const T (&row_sums)[2], int side) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const double total = over_row(static_cast<double>(row_sums[h]), Sum());
      const std::int64_t at = (static_cast<std::int64_t>(side) * grid.column_tiles() + tile.column_tile) * grid.padded_rows();
      if (place.quad == 0) to.rows[at + tile.row_tile * kTile + place.row(h)] = total;
    }
    reduce_columns(place, values, shared.lines[place.warp], Sum(), [](int, int, T value) { return value; });
    synchronise_tile();
    if (place.thread < kTile) {
      const std::int64_t at = (static_cast<std::int64_t>(side) * grid.row_tiles() + tile.row_tile) * grid.padded_columns();
      to.columns[at + tile.column_tile * kTile + place.thread] =
          static_cast<double>(over_lines(shared.lines, place.thread, Sum()));
    }
    synchronise_tile();
  }
};

template <class T>
struct LinearWeights {
  static constexpr int kSides = 2;
  static constexpr int kBlocks = 1;
  struct Parameters {
    PairView<T> view;
    const double* coefficients;
    const double* per_item;
    Weights weights;
  };
  struct Shared {};
  static __device__ void apply(const Grid&, const Parameters& from, const Tile& tile, Shared&, T (&c)[kValues],
                               T (&t)[kValues]) {
    const Place place;
    const T c_shift = static_cast<T>(from.coefficients[0]), t_shift = static_cast<T>(from.coefficients[1]);
    const T constant = static_cast<T>(from.coefficients[2]);
    const T of_c = static_cast<T>(from.coefficients[3]), of_t = static_cast<T>(from.coefficients[4]);
    T row_item[2] = {T(0), T(0)};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (from.per_item && place.row(h) < tile.rows) row_item[h] = static_cast<T>(from.per_item[tile.row0 + place.row(h)]);
    }
    for_pairs(from.view, place, tile, c, t, [&](int h, int column, const Pair<T>& pair, T& value, T&) {
      T gradient = pair.w * pair::linear_weight<T>(pair.c - c_shift, pair.t - t_shift, constant, of_c, of_t);
      if (from.per_item) gradient += row_item[h] + static_cast<T>(from.per_item[tile.column0 + column]);
      value = gradient * score_derivative(from.view.scoring, pair.c);
    });
    write_weights(from.weights, tile, c);
  }
};

}  // namespace cuda
}  // namespace b2m
