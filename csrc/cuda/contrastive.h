// What the contrastive losses do with a tile of raw scores; see b2m/cuda.h for what goes in and out.
#pragma once

#include "cuda/scores.h"
#include "pair/contrastive.h"

namespace b2m {
namespace cuda {

template <class T>
struct Infinity {
  static __host__ __device__ __forceinline__ T value() { return pair::MathConstants<T>::infinity; }
};

/// What sums of exponentials are shifted by where `highest` is the largest of them: 0 where it is not finite.
template <class T>
__device__ __forceinline__ T usable_shift(T highest) {
  return highest > -Infinity<T>::value() && highest < Infinity<T>::value() ? highest : T(0);
}

/// Which pairs of a tile are positive: equal labels or, without labels, i == column_offset + j.
struct PositivePairs {
  const std::int32_t* row_label;
  const std::int32_t* column_label;
  std::int64_t column_offset;

  __device__ __forceinline__ bool diagonal() const { return row_label == nullptr; }
  /// Whether a tile without labels has any.
  __device__ __forceinline__ bool on_diagonal(const Tile& tile) const {
    const std::int64_t column0 = column_offset + tile.column0;
    return diagonal() && tile.row0 < column0 + kTile && column0 < tile.row0 + kTile;
  }
};

/// The positives of a tile, for one thread.
struct TilePositives {
  bool labelled;
  std::int64_t offset;  // column of the diagonal in the tile's first row
  std::int32_t row[2];
  const std::int32_t* column;  // of the tile, in shared memory

  /// `labels`: kTile entries of shared memory; a barrier must come before they are used.
  __device__ __forceinline__ TilePositives(const PositivePairs& pairs, const Place& place, const Tile& tile,
                                           std::int32_t (&labels)[kTile])
      : labelled(!pairs.diagonal()), offset(tile.row0 - tile.column0 - pairs.column_offset), row{0, 0}, column(labels) {
    if (!labelled) return;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (place.row(h) < tile.rows) row[h] = pairs.row_label[tile.row0 + place.row(h)];
    }
    if (place.thread < kTile && place.thread < tile.columns)
      labels[place.thread] = pairs.column_label[tile.column0 + place.thread];
  }
  __device__ __forceinline__ bool at(const Place& place, int h, int column_in_tile) const {
    return labelled ? row[h] == column[column_in_tile] : place.row(h) + offset == column_in_tile;
  }
};

// -------------------------------------------------------------------------------------------------------------- log-sum-exp

template <class T>
struct SoftmaxParameters {
  PositivePairs positives;
  const double* logit_scale;
  double* row_state;     // [kSoftmaxQuantities][row_count]
  double* column_state;  // or null
  std::int64_t row_count, column_count;
  T* row_partials;     // [quantity][column tiles][padded rows of the band]
  T* column_partials;  // [quantity][row tiles][padded columns]
};

/// Without labels: shift and sum of exp(logit - shift) over the negatives, by row and by column. One exponential a pair: the tile's largest
/// logit shifts rows and columns alike, unless some row or column lies so far below it that its sum would lose digits.
template <class T>
struct SoftmaxSums {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 2;
  static constexpr int kQuantities = 2;
  using Parameters = SoftmaxParameters<T>;
  struct Shared {
    T lines[kWarps][kTile];
    T shift[kTile];
    T warps[kWarps];
    int retry;
  };
  /// exp(-60): below it a sum of terms is shifted anew.
  static __device__ __forceinline__ T least() { return T(8.75651076269652e-27); }

  static __device__ void apply(const Grid& grid, const Parameters& to, const Tile& tile, Shared& shared, T (&c)[kValues]) {
    const Place place;
    const T scale = static_cast<T>(*to.logit_scale);
    const bool diagonal = to.positives.on_diagonal(tile);
    const std::int64_t offset = tile.row0 - tile.column0 - to.positives.column_offset;
    const bool whole = tile.whole() && !diagonal;
    T largest = -Infinity<T>::value();
    if (place.thread == 0) shared.retry = 0;
    for_values(place, c, [&](int h, int column, T& value) {
      value *= scale;
      if (!whole) {
        const int row = place.row(h);
        if (diagonal && row + offset == column && row < tile.rows && column < tile.columns)
          write_positive(to, tile.row0 + row, tile.column0 + column, value);
        if (row >= tile.rows || column >= tile.columns || (diagonal && row + offset == column)) value = -Infinity<T>::value();
      }
      largest = larger(largest, value);
    });
    largest = over_tile(place, largest, shared.warps, Maximum());
    const T shift = usable_shift(largest);

    T row_sum[2] = {T(0), T(0)};
    reduce_columns(place, c, shared.lines[place.warp], Sum(), [&](int h, int, T value) {
      const T term = exponential(value - shift);
      row_sum[h] += term;
      return term;
    });
    bool low = !(largest < Infinity<T>::value());  // an infinite logit: its neighbours must not pay for it
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      row_sum[h] = over_row(row_sum[h], Sum());
      low = low || (place.row(h) < tile.rows && row_sum[h] < least());
      write_row(grid, to, tile, place, h, shift, row_sum[h]);
    }
    synchronise_tile();
    if (to.column_partials && place.thread < kTile) {
      const T sum = over_lines(shared.lines, place.thread, Sum());
      low = low || (place.thread < tile.columns && sum < least());
      write_column(grid, to, tile, place.thread, shift, sum);
    }
    if (low) shared.retry = 1;
    synchronise_tile();
    if (shared.retry) one_by_one(grid, to, tile, place, shared, c);
  }

  /// With a shift of its own for each row and each column.
  static __device__ __forceinline__ void one_by_one(const Grid& grid, const Parameters& to, const Tile& tile,
                                                    const Place& place, Shared& shared, T (&c)[kValues]) {
    T shift[2] = {-Infinity<T>::value(), -Infinity<T>::value()};
    for_values(place, c, [&](int h, int, T& value) { shift[h] = larger(shift[h], value); });
#pragma unroll
    for (int h = 0; h < 2; ++h) shift[h] = usable_shift(over_row(shift[h], Maximum()));
    T sum[2] = {T(0), T(0)};
    for_values(place, c, [&](int h, int, T& value) { sum[h] += exponential(value - shift[h]); });
#pragma unroll
    for (int h = 0; h < 2; ++h) write_row(grid, to, tile, place, h, shift[h], over_row(sum[h], Sum()));
    if (!to.column_partials) return;
    reduce_columns(place, c, shared.lines[place.warp], Maximum(), [](int, int, T value) { return value; });
    synchronise_tile();
    if (place.thread < kTile) shared.shift[place.thread] = usable_shift(over_lines(shared.lines, place.thread, Maximum()));
    synchronise_tile();
    reduce_columns(place, c, shared.lines[place.warp], Sum(),
                   [&](int, int column, T value) { return exponential(value - shared.shift[column]); });
    synchronise_tile();
    if (place.thread < kTile) {
      write_column(grid, to, tile, place.thread, shared.shift[place.thread], over_lines(shared.lines, place.thread, Sum()));
    }
  }

  static __device__ __forceinline__ void write_positive(const Parameters& to, std::int64_t i, std::int64_t j, T logit) {
    const double value = static_cast<double>(logit);
    write_positive(to.row_state, to.row_count, i, value);
    if (to.column_state) write_positive(to.column_state, to.column_count, j, value);
  }
  static __device__ __forceinline__ void write_positive(double* state, std::int64_t count, std::int64_t index, double logit) {
    state[1 * count + index] = logit;  // positive_lse
    state[2 * count + index] = logit;  // positive_total
    state[3 * count + index] = 1;      // positive_count
    state[5 * count + index] = logit;  // positive_max
  }
  static __device__ __forceinline__ void write_row(const Grid& grid, const Parameters& to, const Tile& tile, const Place& place,
                                                   int h, T shift, T sum) {
    if (place.quad != 0) return;
    const std::int64_t at = tile.column_tile * grid.padded_rows() + tile.row_tile * kTile + place.row(h);
    to.row_partials[at] = shift;
    to.row_partials[at + grid.column_tiles() * grid.padded_rows()] = sum;
  }
  static __device__ __forceinline__ void write_column(const Grid& grid, const Parameters& to, const Tile& tile, int column,
                                                      T shift, T sum) {
    const std::int64_t at = tile.row_tile * grid.padded_columns() + tile.column_tile * kTile + column;
    to.column_partials[at] = shift;
    to.column_partials[at + grid.row_tiles() * grid.padded_columns()] = sum;
  }
};

/// With labels, or with the largest negative wanted: per row and column shift and sum of the negatives (the shift being their maximum), the
/// same of the positives, and the positives' total and number.
template <class T>
struct LabelledSoftmaxSums {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 1;
  static constexpr int kQuantities = 6;
  using Parameters = SoftmaxParameters<T>;
  struct Shared {
    T lines[kWarps][kTile];
    T shift[2][kTile];  // of negatives, of positives
    std::int32_t labels[kTile];
  };

  static __device__ void apply(const Grid& grid, const Parameters& to, const Tile& tile, Shared& shared, T (&c)[kValues]) {
    const Place place;
    const T scale = static_cast<T>(*to.logit_scale), nothing = -Infinity<T>::value();
    const TilePositives positives(to.positives, place, tile, shared.labels);
    synchronise_tile();
    for_values(place, c, [&](int h, int column, T& value) {
      value = place.row(h) < tile.rows && column < tile.columns ? value * scale : nothing;
    });
    const auto exists = [&](int h, int column) { return place.row(h) < tile.rows && column < tile.columns; };
    const auto of_kind = [&](int h, int column, bool positive) {
      return exists(h, column) && positives.at(place, h, column) == positive;
    };
#pragma unroll
    for (int kind = 0; kind < 2; ++kind) {
      const bool positive = kind == 1;
      T highest[2] = {nothing, nothing}, sum[2] = {T(0), T(0)}, total[2] = {T(0), T(0)}, count[2] = {T(0), T(0)};
      for_values(place, c, [&](int h, int column, T& value) {
        if (of_kind(h, column, positive)) highest[h] = larger(highest[h], value);
      });
#pragma unroll
      for (int h = 0; h < 2; ++h) highest[h] = over_row(highest[h], Maximum());
      for_values(place, c, [&](int h, int column, T& value) {
        if (!of_kind(h, column, positive)) return;
        sum[h] += exponential(value - usable_shift(highest[h]));
        total[h] += value;
        count[h] += T(1);
      });
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        write_row(grid, to, tile, place, h, 2 * kind, highest[h]);
        write_row(grid, to, tile, place, h, 2 * kind + 1, over_row(sum[h], Sum()));
        const T row_total = over_row(total[h], Sum()), row_count = over_row(count[h], Sum());
        if (positive) {
          write_row(grid, to, tile, place, h, 4, row_total);
          write_row(grid, to, tile, place, h, 5, row_count);
        }
      }
      if (!to.column_partials) continue;
      column_quantity(grid, to, tile, place, shared, c, 2 * kind, Maximum(), shared.shift[kind],
                      [&](int h, int column, T value) { return of_kind(h, column, positive) ? value : nothing; });
      column_quantity(grid, to, tile, place, shared, c, 2 * kind + 1, Sum(), nullptr, [&](int h, int column, T value) {
        return of_kind(h, column, positive) ? exponential(value - usable_shift(shared.shift[kind][column])) : T(0);
      });
    }
    if (!to.column_partials) return;
    column_quantity(grid, to, tile, place, shared, c, 4, Sum(), nullptr,
                    [&](int h, int column, T value) { return of_kind(h, column, true) ? value : T(0); });
    column_quantity(grid, to, tile, place, shared, c, 5, Sum(), nullptr,
                    [&](int h, int column, T) { return of_kind(h, column, true) ? T(1) : T(0); });
  }

  template <class Operation, class Body>
  static __device__ __forceinline__ void column_quantity(const Grid& grid, const Parameters& to, const Tile& tile,
                                                         const Place& place, Shared& shared, T (&c)[kValues], int quantity,
                                                         const Operation& combine, T* keep, const Body& value_of) {
    reduce_columns(place, c, shared.lines[place.warp], combine, value_of);
    synchronise_tile();
    if (place.thread < kTile) {
      const T result = over_lines(shared.lines, place.thread, combine);
      if (keep) keep[place.thread] = result;
      const std::int64_t at = (static_cast<std::int64_t>(quantity) * grid.row_tiles() + tile.row_tile) * grid.padded_columns() +
                              tile.column_tile * kTile;
      to.column_partials[at + place.thread] = result;
    }
    synchronise_tile();
  }
  static __device__ __forceinline__ void write_row(const Grid& grid, const Parameters& to, const Tile& tile, const Place& place,
                                                   int h, int quantity, T value) {
    if (place.quad != 0) return;
    const std::int64_t at =
        (static_cast<std::int64_t>(quantity) * grid.column_tiles() + tile.column_tile) * grid.padded_rows() +
        tile.row_tile * kTile;
    to.row_partials[at + place.row(h)] = value;
  }
};

// -------------------------------------------------------------------------------------------------------------- softmax gradient

/// One side's arrays, of `count` elements each (see b2m/cuda.h); data null: no such direction.
template <class T>
struct SoftmaxSide {
  const T* data;
  std::int64_t count;
};

template <class T>
struct SoftmaxWeightsParameters {
  PositivePairs positives;
  const double* logit_scale;
  SoftmaxSide<T> row, column;
  Weights weights;
  double* scale_partials;
};

/// What a row or a column of the tile brings to its gradient weights. A negative pair's is factor * exp(logit - shift), with the tile's shift
/// or the line's own (lse).
template <class T, bool kLabelled>
struct SoftmaxLine {
  T factor, lse, smoothing;
  T single;  // of a positive that is the only one
  __device__ __forceinline__ void read_positive(const SoftmaxSide<T>& side, std::int64_t i, T weight) {
    single = weight == T(0) ? T(0) : weight * ((T(1) - side.data[4 * side.count + i]) - side.data[3 * side.count + i]);
  }
  __device__ __forceinline__ T positive(T) const { return single; }
};
template <class T>
struct SoftmaxLine<T, true> {
  T factor, lse, smoothing;
  T weight, positive_lse, negative_share, inverse_count;
  __device__ __forceinline__ void read_positive(const SoftmaxSide<T>& side, std::int64_t i, T own_weight) {
    weight = own_weight;
    if (weight == T(0)) return;
    positive_lse = side.data[2 * side.count + i];
    negative_share = side.data[3 * side.count + i];
    inverse_count = side.data[4 * side.count + i];
  }
  __device__ __forceinline__ T positive(T logit) const {
    return weight == T(0) ? T(0) : weight * pair::positive_weight<T>(logit, positive_lse, inverse_count, negative_share);
  }
};

template <class T, bool kLabelled>
struct SoftmaxWeightsOf {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = kLabelled ? 1 : 2;
  using Parameters = SoftmaxWeightsParameters<T>;
  using Line = SoftmaxLine<T, kLabelled>;
  struct Shared {
    Line line[2][kTile];
    T warps[3][kWarps];
    double sums[kWarps];
    std::int32_t labels[kTile];
  };

  static __device__ void apply(const Grid& grid, const Parameters& from, const Tile& tile, Shared& shared, T (&c)[kValues]) {
    const Place place;
    const T scale = static_cast<T>(*from.logit_scale);
    const TilePositives positives(from.positives, place, tile, shared.labels);

    // Thread i stands for row i, thread 128 + i for column i. One exponential exp(logit - shift) serves both directions as long as their
    // log-sum-exps are not too far apart for it.
    const int direction = place.thread / kTile, at = place.thread % kTile;
    const SoftmaxSide<T>& side = direction == 0 ? from.row : from.column;
    const std::int64_t index = (direction == 0 ? tile.row0 : tile.column0) + at;
    const bool exists = side.data && at < (direction == 0 ? tile.rows : tile.columns);
    const T weight = exists ? side.data[index] : T(0), smoothing = exists ? side.data[5 * side.count + index] : T(0);
    const bool used = weight != T(0);  // NaN is used
    const T lse = used ? side.data[side.count + index] : Infinity<T>::value();
    const T high = over_tile(place, used ? lse : -Infinity<T>::value(), shared.warps[0], Maximum());
    const T low = -over_tile(place, used ? -lse : -Infinity<T>::value(), shared.warps[1], Maximum());
    const bool smooth = over_tile(place, smoothing != T(0) ? T(1) : T(0), shared.warps[2], Maximum()) > T(0);
    const T shift = low <= high ? T(0.5) * (low + high) : T(0);
    const bool together = !(high - low > T(sizeof(T) == 4 ? 80 : 800));
    Line& line = shared.line[direction][at];
    line.factor = !used ? T(0) : together ? weight * exponential(shift - lse) : weight;
    line.lse = lse;
    line.smoothing = smoothing;
    line.read_positive(side, index, weight);
    synchronise_tile();

    const Line* rows = shared.line[0];
    const Line* columns = shared.line[1];
    const bool candidates = kLabelled || from.positives.on_diagonal(tile);
    T sum = T(0);
    if (together && !candidates && !smooth) {  // nearly all tiles without labels
      const T row_factor[2] = {rows[place.row(0)].factor, rows[place.row(1)].factor};
      for_values(place, c, [&](int h, int column, T& value) {
        const T score = value, logit = scale * score;
        // A logit above every log-sum-exp belongs to a row and a column without weight; limited it meets their zero factors.
        const T limited = logit > high ? high : logit;
        value = exponential(limited - shift) * (row_factor[h] + columns[column].factor);
        sum += value * score;
      });
    } else {
      for_values(place, c, [&](int h, int column, T& value) {
        const T score = value, logit = scale * score;
        const Line& row = rows[place.row(h)];
        if (candidates && place.row(h) < tile.rows && column < tile.columns && positives.at(place, h, column)) {
          value = row.positive(logit) + columns[column].positive(logit);
        } else if (together) {
          const T limited = logit > high ? high : logit;
          value = exponential(limited - shift) * (row.factor + columns[column].factor);
        } else {
          value = row.factor * exponential(logit - row.lse) + columns[column].factor * exponential(logit - columns[column].lse);
        }
        if (smooth) value += row.smoothing + columns[column].smoothing;
        sum += value * score;
      });
    }
    const double total = over_tile(place, static_cast<double>(sum), shared.sums, Sum());
    if (place.thread == 0) from.scale_partials[tile.index(grid)] = total;
    write_weights(from.weights, tile, c);
  }
};
template <class T>
using SoftmaxWeights = SoftmaxWeightsOf<T, false>;
template <class T>
using LabelledSoftmaxWeights = SoftmaxWeightsOf<T, true>;

// -------------------------------------------------------------------------------------------------------------- sigmoid

template <class T>
struct SigmoidParameters {
  PositivePairs positives;
  const double* logit_scale;
  const double* logit_bias;
};

/// Sum over a tile's row of softplus(-z (l + bias)).
template <class T>
struct SigmoidLosses {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 2;
  struct Parameters {
    SigmoidParameters<T> common;
    double* row_partials;  // [column tiles][padded rows of the band]
  };
  struct Shared {
    std::int32_t labels[kTile];
  };
  static __device__ void apply(const Grid& grid, const Parameters& to, const Tile& tile, Shared& shared, T (&c)[kValues]) {
    const Place place;
    const T scale = static_cast<T>(*to.common.logit_scale), bias = static_cast<T>(*to.common.logit_bias);
    const TilePositives positives(to.common.positives, place, tile, shared.labels);
    synchronise_tile();
    T sum[2] = {T(0), T(0)};
    for_values(place, c, [&](int h, int column, T& value) {
      const T logit = scale * value + bias;
      const T loss = pair::sigmoid_loss<T>(positives.at(place, h, column) ? -logit : logit);
      if (column < tile.columns) sum[h] += loss;
    });
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const double total = over_row(static_cast<double>(sum[h]), Sum());
      if (place.quad == 0)
        to.row_partials[tile.column_tile * grid.padded_rows() + tile.row_tile * kTile + place.row(h)] = total;
    }
  }
};

/// Gradient of the same.
template <class T>
struct SigmoidWeights {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 2;
  struct Parameters {
    SigmoidParameters<T> common;
    const T* row_weight;
    Weights weights;
    double* scale_partials;
    double* bias_partials;
  };
  struct Shared {
    double sums[2][kWarps];
    std::int32_t labels[kTile];
  };
  static __device__ void apply(const Grid& grid, const Parameters& from, const Tile& tile, Shared& shared, T (&c)[kValues]) {
    const Place place;
    const T scale = static_cast<T>(*from.common.logit_scale), bias = static_cast<T>(*from.common.logit_bias);
    const TilePositives positives(from.common.positives, place, tile, shared.labels);
    synchronise_tile();
    T weight[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) weight[h] = place.row(h) < tile.rows ? from.row_weight[tile.row0 + place.row(h)] : T(0);
    T by_score = T(0), by_one = T(0);
    for_values(place, c, [&](int h, int column, T& value) {
      const T score = value, logit = scale * score + bias;
      const bool positive = positives.at(place, h, column);
      const T slope = weight[h] * pair::sigmoid_loss_derivative<T>(positive ? -logit : logit);
      value = column < tile.columns && place.row(h) < tile.rows ? (positive ? -slope : slope) : T(0);
      by_score += value * score;
      by_one += value;
    });
    const double scale_total = over_tile(place, static_cast<double>(by_score), shared.sums[0], Sum());
    const double bias_total = over_tile(place, static_cast<double>(by_one), shared.sums[1], Sum());
    if (place.thread == 0) {
      from.scale_partials[tile.index(grid)] = scale_total;
      from.bias_partials[tile.index(grid)] = bias_total;
    }
    write_weights(from.weights, tile, c);
  }
};

}  // namespace cuda
}  // namespace b2m
