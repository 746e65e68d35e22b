#include "b2m/rsa.h"

#include <cmath>
#include <memory>

#include "cpu/engine.h"
#include "cpu/operands.h"
#include "pair/elements.h"

namespace b2m {
namespace {

/// A tile of one side's scores, computed from patterns or read from where somebody stored them.
template <class T>
class Source {
 public:
  Source(const Similarities& similarities, std::int64_t count, Use use, const Executor& executor, bool exact)
      : similarities_(similarities), count_(count) {
    if (similarities.kind != Similarities::Kind::patterns) return;
    operands_ = std::make_unique<Operands<T>>(similarities.data, nullptr, similarities.scoring.metric, use, executor, exact);
    scorer_ = std::make_unique<Scorer<T>>(operands_->row(), operands_->column(), similarities.scoring);
  }

  /// For the tiles of a block of columns that follow.
  void begin_block(std::int64_t column0, std::int64_t columns, int threads) {
    if (scorer_) scorer_->begin_block(column0, columns, threads);
  }
  /// Only pairs i < j are sure to be filled in when they are read from a condensed vector.
  void fill(const Tile<T>& tile) const {
    if (scorer_) {
      (*scorer_)(tile);
      return;
    }
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      const std::int64_t row = tile.row0 + i;
      T* to = tile.data + i * tile.stride;
      if (similarities_.kind == Similarities::Kind::matrix) {
        read_row(similarities_.data, row, tile.column0, tile.columns, to);
      } else {
        const std::int64_t first = std::max<std::int64_t>(row + 1 - tile.column0, 0);
        const std::int64_t start = row * count_ - row * (row + 1) / 2 - row - 1;  // of the (absent) pair (row, 0)
        if (first < tile.columns) {
          read_row(similarities_.data, 0, start + tile.column0 + first, tile.columns - first, to + first);
        }
      }
    }
  }
  const Scorer<T>& scorer() const { return *scorer_; }
  std::int64_t row_block() const { return operands_ ? operands_->row_block() : 1; }

 private:
  Similarities similarities_;
  std::int64_t count_;
  std::unique_ptr<Operands<T>> operands_;
  std::unique_ptr<Scorer<T>> scorer_;
};

/// The tiles of c, t and w side by side, over the pairs i < j.
template <class T>
class Comparer {
 public:
  /// `exact`: in float's precision whatever the setting is.
  Comparer(const Comparison& comparison, Use use, bool exact)
      : comparison_(comparison),
        c(comparison.c, comparison.count, use, comparison.executor, exact),
        t(comparison.t, comparison.count, Use::scores, comparison.executor, exact),
        blocking(comparison.count, comparison.executor.threads,
                 std::max({c.row_block(), t.row_block(), std::int64_t{kernels<T>().row_block}}), true),
        level(kernels<T>()),
        spaces_(make_workspaces<T>(blocking, comparison.executor.threads, comparison.weights ? 3 : 2)) {
    if (comparison.weights)
      w_ = std::make_unique<Source<T>>(*comparison.weights, comparison.count, Use::scores, comparison.executor, exact);
  }

  void begin_block(std::int64_t column0, std::int64_t columns, int threads) {
    for (Source<T>* source : {&c, &t, w_.get()}) {
      if (source) source->begin_block(column0, columns, threads);
    }
  }
  /// body(thread, c tile, t tile, w tile); the w tile has no data when every pair counts 1.
  template <class Body, class After>
  void run(const Body& body, const After& after) {
    for_tiles<T>(
        comparison_.count, comparison_.count, true, blocking, comparison_.executor.threads, *this,
        [&](int thread, Tile<T> pairs) {
          Workspace<T>& space = spaces_[static_cast<std::size_t>(thread)];
          const Tile<T> c_tile = with_data(pairs, space.scores), t_tile = with_data(pairs, space.second);
          c.fill(c_tile);
          t.fill(t_tile);
          Tile<T> w_tile = pairs;
          if (w_) {
            w_tile = with_data(pairs, space.third);
            w_->fill(w_tile);
          }
          body(thread, c_tile, t_tile, w_tile);
        },
        after);
  }

 private:
  const Comparison& comparison_;

 public:
  Source<T> c, t;
  Blocking blocking;
  const Kernels<T>& level;

 private:
  std::vector<Workspace<T>> spaces_;
  std::unique_ptr<Source<T>> w_;
};

template <class T>
PairMoments moments(const Comparison& comparison, double c_shift, double t_shift, double* c_row, double* t_row) {
  Comparer<T> comparer(comparison, Use::scores, false);
  const auto threads = static_cast<std::size_t>(comparison.executor.threads);
  std::vector<Moments> parts(threads);
  std::vector<Buffer<double>> columns;  // of c', then of t', per thread
  if (c_row) {
    std::fill(c_row, c_row + comparison.count, 0.0);
    std::fill(t_row, t_row + comparison.count, 0.0);
    for (std::size_t thread = 0; thread < threads; ++thread) columns.emplace_back(2 * comparer.blocking.columns, 0.0);
  }
  comparer.run(
      [&](int thread, const Tile<T>& c, const Tile<T>& t, const Tile<T>& w) {
        const auto slot = static_cast<std::size_t>(thread);
        double* c_column = c_row ? columns[slot].data() : nullptr;
        double* t_column = c_row ? c_column + comparer.blocking.columns : nullptr;
        comparer.level.add_moments(c, t, w, static_cast<T>(c_shift), static_cast<T>(t_shift), parts[slot],
                                   c_row ? c_row + c.row0 : nullptr, c_row ? t_row + c.row0 : nullptr, c_column, t_column);
      },
      [&](std::int64_t column0, std::int64_t count) {
        for (Buffer<double>& column : columns) {
          for (std::int64_t j = 0; j < count; ++j) {
            c_row[column0 + j] += column[j];
            t_row[column0 + j] += column[comparer.blocking.columns + j];
          }
          column.fill(0);
        }
      });
  PairMoments total{};
  for (const Moments& part : parts) {
    total.w += part.w;
    total.wc += part.wc;
    total.wt += part.wt;
    total.wcc += part.wcc;
    total.wtt += part.wtt;
    total.wct += part.wct;
  }
  return total;
}

/// One pass over the pairs in which weigh(thread, c tile, t tile, w tile) turns the c tile into gradient weights, whose sum for the
/// patterns, times what finish() returns after the pass, goes to dc.
template <class T, class Weigh, class Finish>
void pattern_gradient(const Comparison& comparison, bool exact, const double* diagonal, const Matrix& dc, const Weigh& weigh,
                      const Finish& finish) {
  Comparer<T> comparer(comparison, Use::scores_and_gradient, exact);
  const Scorer<T>& scorer = comparer.c.scorer();
  const Operand<T>& patterns = scorer.row;
  const bool chained = !is_bilinear(scorer.scoring.metric);
  GradientSums<T> sums(scorer, comparer.blocking, comparison.executor.threads, true, true, true);
  auto copies = make_workspaces<T>(comparer.blocking, chained ? comparison.executor.threads : 0, 1);
  comparer.run(
      [&](int thread, const Tile<T>& c, const Tile<T>& t, const Tile<T>& w) {
        Tile<T> scores = c;
        if (chained) {
          scores = with_data(c, copies[static_cast<std::size_t>(thread)].scores);
          std::copy(c.data, c.data + c.rows * c.stride, scores.data);
        }
        weigh(thread, c, t, w);
        scorer.chain(c, scores);
        sums.add(thread, c);
      },
      [&](std::int64_t column0, std::int64_t count) { sums.finish_block(column0, count); });
  if (diagonal) {
    parallel_ranges(comparison.executor.threads, patterns.count, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t k = i * patterns.stride; k < i * patterns.stride + patterns.depth; ++k) {
          sums.row_gradient[k] += static_cast<T>(2 * diagonal[i]) * patterns.rows[k];  // d(x.x)/dx = 2 x
        }
      }
    });
  }
  sums.finish();
  finish_gradient(patterns, sums.row_gradient, finish(), dc, comparison.executor.threads);
}

/// Everything is computed in the precision of the first side.
DType compute_dtype(const Comparison& comparison) { return comparison.c.data.dtype; }

}  // namespace

PairMoments pair_moments(const Comparison& comparison, double c_shift, double t_shift, double* c_row, double* t_row) {
  PairMoments total{};
  with_compute_type(compute_dtype(comparison),
                    [&](auto zero) { total = moments<decltype(zero)>(comparison, c_shift, t_shift, c_row, t_row); });
  return total;
}

double typical_score(const Similarities& similarities, std::int64_t count, const Executor& executor) {
  if (count < 2) return 0;
  double typical = 0;
  with_compute_type(similarities.data.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (similarities.kind == Similarities::Kind::patterns && is_bilinear(similarities.scoring.metric)) {
      // sum over i != j of z_i . z_j = |sum z|^2 - sum |z|^2.
      const Operand<T> z = prepare<T>(similarities.data, similarities.scoring.metric, executor.threads);
      Buffer<double> sum(z.depth, 0.0);
      double squares = 0, square = 0;
      for (std::int64_t i = 0; i < z.count; ++i) {
        for (std::int64_t k = 0; k < z.depth; ++k) {
          const double value = static_cast<double>(z.rows[i * z.stride + k]);
          sum[k] += value;
          squares += value * value;
        }
      }
      for (std::int64_t k = 0; k < z.depth; ++k) square += sum[k] * sum[k];
      typical = (square - squares) / (static_cast<double>(count) * static_cast<double>(count - 1));
    } else {
      Source<T> source(similarities, count, Use::scores, executor, false);
      const Blocking blocking(count, 1, std::max(source.row_block(), std::int64_t{kernels<T>().row_block}), false);
      Buffer<T> scores(blocking.rows * blocking.stride, T(0));
      const Tile<T> tile{
          scores.data(), blocking.stride, std::min(blocking.rows, count), std::min(blocking.columns, count), 0, 0};
      source.begin_block(0, tile.columns, executor.threads);
      source.fill(tile);
      double sum = 0, number = 0;
      for (std::int64_t i = 0; i < tile.rows; ++i) {
        for (std::int64_t j = i + 1; j < tile.columns; ++j, number += 1) {
          sum += static_cast<double>(tile.data[i * tile.stride + j]);
        }
      }
      typical = sum / number;
    }
    typical = static_cast<double>(static_cast<T>(typical));  // what the kernels will subtract
  });
  return std::isfinite(typical) ? typical : 0;
}

double mean_squared_difference(const Comparison& comparison, Transform transform, double epsilon, const Matrix* dc) {
  struct Sums {
    double weight = 0, total = 0;
  };
  double mean = 0;
  with_compute_type(compute_dtype(comparison), [&](auto zero) {
    using T = decltype(zero);
    // Fisher's z in float's own precision: rounding must not carry a similarity past 1 + epsilon, where F ends.
    const bool atanh = transform == Transform::atanh;
    const Kernels<T>& level = kernels<T>();
    std::vector<Sums> parts(static_cast<std::size_t>(comparison.executor.threads));
    const auto adding = [&](auto add) {
      return [&, add](int thread, const Tile<T>& c, const Tile<T>& t, const Tile<T>& w) {
        Sums& part = parts[static_cast<std::size_t>(thread)];
        add(c, t, w, static_cast<T>(epsilon), part.weight, part.total);
      };
    };
    const auto divide = [&] {
      Sums all;
      for (const Sums& part : parts) {
        all.weight += part.weight;
        all.total += part.total;
      }
      const double scale = all.weight == 0 ? 0 : 1 / all.weight;
      mean = all.total * scale;
      return scale;
    };
    if (dc) {
      pattern_gradient<T>(comparison, atanh, nullptr, *dc, adding(atanh ? level.weigh_atanh : level.weigh_squared), divide);
    } else {
      Comparer<T> comparer(comparison, Use::scores, atanh);
      comparer.run(adding(atanh ? level.add_atanh : level.add_squared), [](std::int64_t, std::int64_t) {});
      divide();
    }
  });
  return mean;
}

void linear_gradient(const Comparison& comparison, const LinearGradient& gradient, const Matrix& dc) {
  with_compute_type(compute_dtype(comparison), [&](auto zero) {
    using T = decltype(zero);
    Buffer<T> per_item;
    if (gradient.per_item) {
      // One vector more than needed: kernels read whole vectors.
      per_item = Buffer<T>(comparison.count + kernels<T>().width, T(0));
      for (std::int64_t i = 0; i < comparison.count; ++i) per_item[i] = static_cast<T>(gradient.per_item[i]);
    }
    const LinearWeight<T> weight{static_cast<T>(gradient.c_shift),  static_cast<T>(gradient.t_shift),
                                 static_cast<T>(gradient.constant), static_cast<T>(gradient.of_c),
                                 static_cast<T>(gradient.of_t),     gradient.per_item ? per_item.data() : nullptr};
    pattern_gradient<T>(
        comparison, false, gradient.diagonal, dc,
        [&](int, const Tile<T>& c, const Tile<T>& t, const Tile<T>& w) { kernels<T>().linear_weight(c, t, w, weight); },
        [] { return 1.0; });
  });
}

std::int64_t count_inversions(double* values, double* scratch, std::int64_t count) {
  std::int64_t inversions = 0;
  double* from = values;
  double* to = scratch;
  for (std::int64_t width = 1; width < count; width *= 2) {
    for (std::int64_t begin = 0; begin < count; begin += 2 * width) {
      const std::int64_t middle = std::min(begin + width, count), end = std::min(begin + 2 * width, count);
      std::int64_t left = begin, right = middle;
      for (std::int64_t k = begin; k < end; ++k) {
        if (left < middle && (right >= end || from[left] <= from[right])) {
          to[k] = from[left++];
        } else {
          to[k] = from[right++];
          inversions += middle - left;
        }
      }
    }
    std::swap(from, to);
  }
  return inversions;
}

}  // namespace b2m
