// The tile engine: the loop over all pairs that every op shares.
//
//   for every block of columns                       (packed once, and used while it is in the second-level cache)
//     for every band of rows, in parallel            (a band belongs to one thread, always the same)
//       scores of the tile -> the op's formula while they are hot
//     the op joins what the threads gathered for these columns, in thread order
//
// No score outlives its tile. Bands and blocks depend on the problem's size and the thread count alone and every sum has a fixed
// order, so a result is the same bit for bit from run to run.
#pragma once

#include <algorithm>
#include <cassert>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/operand.h"
#include "cpu/parallel.h"

namespace b2m {

/// Sizes of a tile. About 112 x 256 single-precision scores (112 KiB; rows a multiple of what the level computes at once) stay in a
/// second-level cache beside the operands of the block; fewer rows where the threads would otherwise run out of bands, and fewer
/// columns where tiles on the diagonal of an upper triangle would be much of it.
struct Blocking {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t stride;  // of a stored tile; the extra 16 values keep its rows out of the same cache sets

  Blocking(std::int64_t row_count, int threads, std::int64_t row_block, bool upper)
      : columns(upper ? std::clamp((row_count / 8 + 63) / 64 * 64, std::int64_t{64}, std::int64_t{256}) : 256),
        stride(columns + 16) {
    const auto blocks = [&](std::int64_t count) { return (count + row_block - 1) / row_block * row_block; };
    rows = std::clamp(blocks((row_count + 4 * threads - 1) / (4 * threads)), row_block, blocks(112));
  }
};

/// What one thread needs while it works on a tile.
template <class T>
struct Workspace {
  Buffer<T> scores, second, third;  // tiles
  Buffer<T> vectors;                // a few vectors of a tile's width
};

template <class T>
std::vector<Workspace<T>> make_workspaces(const Blocking& blocking, int threads, int tiles) {
  std::vector<Workspace<T>> spaces(static_cast<std::size_t>(threads));
  const std::int64_t size = blocking.rows * blocking.stride;
  for (Workspace<T>& space : spaces) {
    space.scores = Buffer<T>(size, T(0));
    if (tiles > 1) space.second = Buffer<T>(size, T(0));
    if (tiles > 2) space.third = Buffer<T>(size, T(0));
    space.vectors = Buffer<T>(4 * blocking.stride);
  }
  return spaces;
}

/// Visits all tiles. Once per block of columns scores.begin_block(column0, columns, threads) makes ready what the tiles are filled from,
/// body(thread, tile) runs in parallel with an empty tile (no data) that says which pairs, and after(column0, columns) ends the block.
/// `upper`: rows and columns are the same items and only tiles with a pair i <= j are visited.
template <class T, class Scores, class Body, class After>
void for_tiles(std::int64_t row_count, std::int64_t column_count, bool upper, const Blocking& blocking, int threads,
               Scores& scores, const Body& body, const After& after) {
  for (std::int64_t column0 = 0; column0 < column_count; column0 += blocking.columns) {
    const std::int64_t columns = std::min(blocking.columns, column_count - column0);
    const std::int64_t last_row = upper ? std::min(row_count, column0 + columns) : row_count;
    scores.begin_block(column0, columns, threads);
    parallel(threads, [&](int thread) {
      for (std::int64_t row0 = thread * blocking.rows; row0 < last_row; row0 += threads * blocking.rows) {
        const std::int64_t rows = std::min(blocking.rows, row_count - row0);
        body(thread, Tile<T>{nullptr, blocking.stride, rows, columns, row0, column0});
      }
    });
    after(column0, columns);
  }
}

template <class T>
Tile<T> with_data(Tile<T> tile, Buffer<T>& buffer) {
  tile.data = buffer.data();
  return tile;
}

/// The pair scores of two prepared operands, a block of columns at a time: columns are packed for the tiles of their block alone,
/// so operands are held once.
template <class T>
class Scorer {
 public:
  Scorer(const Operand<T>& rows, const Operand<T>& columns, Scoring how)
      : level(kernels<T>()), row(rows), column(columns), scoring(how) {}

  const Kernels<T>& level;
  const Operand<T>& row;
  const Operand<T>& column;
  const Scoring scoring;

  /// Packs the columns of the tiles that are scored next.
  void begin_block(std::int64_t column0, std::int64_t columns, int threads) {
    const bool larger = columns > most_columns_;
    most_columns_ = std::max(most_columns_, columns);
    column0_ = column0;
    if constexpr (std::is_same_v<T, float>) {
      if (const PackedRows& left = row.packed; left.unit) {
        if (larger) packed_ = PackedMatrix(left.parts, words_of(column.depth), columns, true);
        pack_columns(*left.unit,
                     {left.parts, column.rows.data() + column0 * column.stride, column.stride, columns, column.depth}, packed_,
                     threads);
        return;
      }
    }
    if (larger)
      panels_ = Buffer<T>((columns + level.column_panel - 1) / level.column_panel * level.column_panel * column.depth);
    pack_panels(column, column0, columns, level.column_panel, panels_, threads);
  }

  /// Fills a tile of the block: a product of prepared rows, or squared distances by differences (no cancellation, exact zeros).
  void operator()(Tile<T> tile) const {
    assert(tile.column0 == column0_);
    if constexpr (std::is_same_v<T, float>) {
      if (const PackedRows& left = row.packed; left.unit) {
        left.unit->product({left.parts, tile.rows, whole_blocks(tile.columns), words_of(row.depth),
                            left.left.from(tile.row0, 0), packed_.from(0, 0), tile.data, tile.stride, false});
        return;
      }
    }
    const std::int64_t width = level.width;
    const Product<T> product{tile.rows,
                             (tile.columns + width - 1) / width * width,
                             row.depth,
                             row.rows.data() + tile.row0 * row.stride,
                             row.stride,
                             1,
                             panels_.data(),
                             level.column_panel,
                             level.column_panel * column.depth,
                             tile.data,
                             tile.stride,
                             false};
    if (is_bilinear(scoring.metric)) {
      level.product(product);
    } else {
      level.squared_distance(product);
      level.distance_value(tile, distance(), static_cast<T>(scoring.gamma));
    }
  }

  /// `weight`, the gradient of the scores, becomes the gradient of what `GradientSums` sums over: products or squared distances.
  void chain(Tile<T> weight, Tile<T> score) const {
    if (!is_bilinear(scoring.metric)) level.distance_chain(weight, score, distance(), static_cast<T>(scoring.gamma));
  }

 private:
  DistanceKernel distance() const {
    return scoring.metric == Metric::euclidean ? DistanceKernel::euclidean
           : scoring.metric == Metric::rbf     ? DistanceKernel::rbf
                                               : DistanceKernel::sqeuclidean;
  }

  std::int64_t column0_ = -1;      // of the block begun last
  std::int64_t most_columns_ = 0;  // of the largest block so far
  Buffer<T> panels_;               // the block's columns, as floats
  PackedMatrix packed_;            // the block's columns, as parts
};

/// Sums a tile's gradient weights G into the gradients of both operands:
///   bilinear    dX += G Y, dY += G' X
///   distances   dX_i += 2 sum_j G_ij (x_i - y_j), dY_j += 2 sum_i G_ij (y_j - x_i)
/// Columns gather in a partial sum per thread, which finish_block adds in thread order.
template <class T>
class GradientSums {
 public:
  /// `same`: rows and columns are one operand and both sums go to `row_gradient`.
  GradientSums(const Scorer<T>& scorer, const Blocking& blocking, int threads, bool rows_wanted, bool columns_wanted, bool same)
      : scorer_(scorer), threads_(threads), same_(same), distances_(!is_bilinear(scorer.scoring.metric)) {
    const Operand<T>& row = scorer.row;
    const Operand<T>& column = scorer.column;
    if (rows_wanted || same) {
      row_gradient = Buffer<T>(whole_blocks(row.count) * row.stride, T(0));
      if (distances_) row_sum_ = Buffer<double>(row.count, 0.0);
    }
    if (columns_wanted || same) {
      if (!same) column_gradient = Buffer<T>(column.count * column.stride, T(0));
      if (distances_ && !same) column_sum_ = Buffer<double>(column.count, 0.0);
      for (int thread = 0; thread < threads; ++thread) {
        partial_.emplace_back(blocking.columns * column.stride);
        partial_sum_.emplace_back(distances_ ? blocking.columns : 0, 0.0);
        fresh_.push_back(1);
      }
    }
    if (const PackedRows& packed = row.packed; packed.unit) {
      for (int thread = 0; thread < threads; ++thread) {
        packed_weights_.emplace_back(*packed.unit, packed.parts, blocking.rows, blocking.columns);
      }
    }
  }

  /// Called by `thread` for a tile of a band it owns.
  void add(int thread, Tile<T> weight) {
    const Operand<T>& row = scorer_.row;
    const Operand<T>& column = scorer_.column;
    const std::int64_t panel = scorer_.level.column_panel;
    const auto slot = static_cast<std::size_t>(thread);
    if constexpr (std::is_same_v<T, float>) {
      if (!packed_weights_.empty()) {
        PackedWeights& packed = packed_weights_[slot];
        if (!partial_.empty()) {
          packed.add_to_columns(weight, row.packed, partial_[slot].data(), column.stride, row.depth, fresh_[slot] == 0);
          fresh_[slot] = 0;
        }
        if (row_gradient.size() > 0) {
          packed.add_to_rows(weight, column.packed, row_gradient.data() + weight.row0 * row.stride, row.stride, column.depth);
        }
        return;
      }
    }
    double* column_sums = nullptr;
    if (!partial_.empty()) {
      scorer_.level.product({weight.columns, padded_depth(row), weight.rows, weight.data, 1, weight.stride,
                             row.gradient_rows() + weight.row0 * row.stride, row.stride, panel, partial_[slot].data(),
                             column.stride, fresh_[slot] == 0});
      fresh_[slot] = 0;
      if (distances_) column_sums = partial_sum_[slot].data();
    }
    if (row_gradient.size() > 0) {
      scorer_.level.product({weight.rows, padded_depth(column), weight.columns, weight.data, weight.stride, 1,
                             column.gradient_rows() + weight.column0 * column.stride, column.stride, panel,
                             row_gradient.data() + weight.row0 * row.stride, row.stride, true});
    }
    if (distances_) {
      scorer_.level.add_sums(weight, row_sum_.size() > 0 ? row_sum_.data() + weight.row0 : nullptr, column_sums);
    }
  }

  /// Called once per block of columns, by one thread.
  void finish_block(std::int64_t column0, std::int64_t columns) {
    if (partial_.empty()) return;
    const std::int64_t stride = scorer_.column.stride;
    Buffer<T>& gradient = same_ ? row_gradient : column_gradient;
    parallel_ranges(threads_, columns, [&](std::int64_t begin, std::int64_t end) {
      for (std::size_t thread = 0; thread < partial_.size(); ++thread) {
        if (fresh_[thread]) continue;
        for (std::int64_t k = begin * stride; k < end * stride; ++k) gradient[column0 * stride + k] += partial_[thread][k];
      }
    });
    for (std::size_t thread = 0; thread < partial_.size(); ++thread) {
      if (distances_ && !fresh_[thread]) {
        Buffer<double>& sums = same_ ? row_sum_ : column_sum_;
        for (std::int64_t j = 0; j < columns; ++j) sums[column0 + j] += partial_sum_[thread][j];
        partial_sum_[thread].fill(0);
      }
      fresh_[thread] = 1;
    }
  }

  /// Called once at the end: distances turn sum_j G_ij y_j into 2 (x_i sum_j G_ij - sum_j G_ij y_j).
  void finish() {
    if (!distances_) return;
    if (row_gradient.size() > 0) finish_distances(scorer_.row, row_sum_, row_gradient);
    if (column_gradient.size() > 0) finish_distances(scorer_.column, column_sum_, column_gradient);
  }

  Buffer<T> row_gradient;     // (row.count, row.stride); empty if not wanted
  Buffer<T> column_gradient;  // (column.count, column.stride); empty if not wanted

 private:
  std::int64_t padded_depth(const Operand<T>& operand) const {
    const std::int64_t width = scorer_.level.width;
    return (operand.depth + width - 1) / width * width;
  }
  void finish_distances(const Operand<T>& operand, const Buffer<double>& sums, Buffer<T>& gradient) {
    parallel_ranges(threads_, operand.count, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* x = operand.gradient_rows() + i * operand.stride;
        T* g = gradient.data() + i * operand.stride;
        for (std::int64_t k = 0; k < operand.depth; ++k) {
          g[k] = static_cast<T>(2 * (sums[i] * static_cast<double>(x[k]) - static_cast<double>(g[k])));
        }
      }
    });
  }

  const Scorer<T>& scorer_;
  int threads_;
  bool same_;
  bool distances_;
  Buffer<double> row_sum_, column_sum_;
  std::vector<Buffer<T>> partial_;
  std::vector<Buffer<double>> partial_sum_;
  std::vector<PackedWeights> packed_weights_;  // a thread's; empty where floats are multiplied as they are
  std::vector<char> fresh_;                    // the thread has added nothing to this block yet
};

}  // namespace b2m
