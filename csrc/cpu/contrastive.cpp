#include "b2m/contrastive.h"

#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "cpu/engine.h"
#include "cpu/operands.h"
#include "cpu/sums.h"

namespace b2m {
namespace {

/// The items of one side in the order of their labels.
class Order {
 public:
  Order() = default;
  /// Without labels, or where they are in order already, nothing is moved.
  Order(const std::int32_t* labels, std::int64_t count) : labels_(labels) {
    if (!labels || std::is_sorted(labels, labels + count)) return;
    std::vector<std::pair<std::int32_t, std::int64_t>> items(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) items[static_cast<std::size_t>(i)] = {labels[i], i};
    std::sort(items.begin(), items.end());
    sorted_ = Buffer<std::int32_t>(count);
    places_ = Buffer<std::int64_t>(count);
    for (std::int64_t i = 0; i < count; ++i) std::tie(sorted_[i], places_[i]) = items[static_cast<std::size_t>(i)];
    labels_ = sorted_.data();
  }
  const std::int32_t* labels() const { return labels_; }
  /// Where item i stands with the caller; null: at i.
  const std::int64_t* places() const { return places_.data(); }
  std::int64_t place(std::int64_t i) const { return places_.size() > 0 ? places_[i] : i; }

 private:
  const std::int32_t* labels_ = nullptr;
  Buffer<std::int32_t> sorted_;
  Buffer<std::int64_t> places_;
};

// Pairs from which on items are taken in the order of their labels. A tile that may hold a positive pair takes two more exponentials a
// pair and looks at every label: in random order, that is every tile. 4096 queries and keys of depth 64 with 16 labels take 63 ms of
// CPU instead of 80, forward and backward. (The sigmoid loss takes no more for a positive, and gains nothing.)
constexpr std::int64_t kSortedFrom = std::int64_t{1} << 18;

/// The labels of a problem, or the diagonal where there are none.
class Positives {
 public:
  explicit Positives(const ContrastiveProblem& problem) : row_(problem.row_label), column_(problem.column_label) {}

  /// In the order of their labels, where that pays.
  static Positives in_order(const ContrastiveProblem& problem) {
    Positives positives(problem);
    const std::int64_t n = problem.query.rows, m = problem.key.rows;
    if (n * m >= kSortedFrom) {
      positives.rows_ = Order(problem.row_label, n);
      positives.columns_ = Order(problem.column_label, m);
      positives.row_ = positives.rows_.labels();
      positives.column_ = positives.columns_.labels();
    }
    return positives;
  }

  bool diagonal() const { return row_ == nullptr; }
  const Order& row_order() const { return rows_; }
  const Order& column_order() const { return columns_; }
  Places places() const { return {rows_.places(), columns_.places()}; }

  /// Diagonal: body(tile row, tile column) for the positive pairs of the tile.
  template <class T, class Body>
  void for_diagonal(const Tile<T>& tile, const Body& body) const {
    const std::int64_t offset = tile.row0 - tile.column0;
    const std::int64_t first = std::max<std::int64_t>(0, -offset), last = std::min(tile.rows, tile.columns - offset);
    for (std::int64_t i = first; i < last; ++i) body(i, i + offset);
  }

  /// Labels: whether the tile could hold a positive pair at all, by the range of its labels.
  template <class T>
  bool may_occur(const Tile<T>& tile) const {
    const auto rows = std::minmax_element(row_ + tile.row0, row_ + tile.row0 + tile.rows);
    const auto columns = std::minmax_element(column_ + tile.column0, column_ + tile.column0 + tile.columns);
    return *rows.first <= *columns.second && *columns.first <= *rows.second;
  }

  template <class T>
  const std::int32_t* rows(const Tile<T>& tile) const {
    return row_ + tile.row0;
  }
  template <class T>
  const std::int32_t* columns(const Tile<T>& tile) const {
    return column_ + tile.column0;
  }

 private:
  Order rows_, columns_;
  const std::int32_t* row_;
  const std::int32_t* column_;
};

// ------------------------------------------------------------------------------------------------------------ InfoNCE

/// Running statistics of one direction.
template <class T>
struct DirectionState {
  Buffer<T> negative_max, positive_max, positive_count, top_negative, top_positive;
  Buffer<double> negative_sum, positive_sum, positive_total;

  DirectionState(std::int64_t count, bool tops)
      : negative_max(count),
        positive_max(count),
        positive_count(count),
        top_negative(tops ? count : 0),
        top_positive(tops ? count : 0),
        negative_sum(count),
        positive_sum(count),
        positive_total(count) {
    clear();
  }
  void clear() {
    const T lowest = -std::numeric_limits<T>::infinity();
    for (Buffer<T>* buffer : {&negative_max, &positive_max, &top_negative, &top_positive}) buffer->fill(lowest);
    positive_count.fill(0);
    for (Buffer<double>* buffer : {&negative_sum, &positive_sum, &positive_total}) buffer->fill(0);
  }
  LogSumExp<T> negatives(std::int64_t from) { return {negative_max.data() + from, negative_sum.data() + from}; }
  LogSumExp<T> positives(std::int64_t from) { return {positive_max.data() + from, positive_sum.data() + from}; }
  T* tops(Buffer<T>& buffer, std::int64_t from) { return buffer.size() > 0 ? buffer.data() + from : nullptr; }

  void add_positive(std::int64_t i, T logit) {
    merge(positive_max[i], positive_sum[i], logit, 1.0);
    positive_count[i] += T(1);
    positive_total[i] += static_cast<double>(logit);
    if (top_positive.size() > 0) top_positive[i] = std::max(top_positive[i], logit);
  }
  /// Adds entry `j` of what a thread gathered.
  void join(std::int64_t i, const DirectionState& other, std::int64_t j) {
    merge(negative_max[i], negative_sum[i], other.negative_max[j], other.negative_sum[j]);
    merge(positive_max[i], positive_sum[i], other.positive_max[j], other.positive_sum[j]);
    positive_count[i] += other.positive_count[j];
    positive_total[i] += other.positive_total[j];
    if (top_negative.size() > 0) {
      top_negative[i] = std::max(top_negative[i], other.top_negative[j]);
      top_positive[i] = std::max(top_positive[i], other.top_positive[j]);
    }
  }
  /// Writes entry i as that of the caller's item `place`.
  void write(std::int64_t i, std::int64_t place, const SoftmaxStatistics& to) const {
    const double count = static_cast<double>(positive_count[i]);
    to.negative_lse[place] = static_cast<double>(negative_max[i]) + std::log(negative_sum[i]);
    to.positive_lse[place] = static_cast<double>(positive_max[i]) + std::log(positive_sum[i]);
    to.positive_mean[place] = count > 0 ? positive_total[i] / count : 0;
    to.positive_count[place] = count;
    if (negative_sum[i] == 0) to.negative_lse[place] = -std::numeric_limits<double>::infinity();
    if (count == 0) to.positive_lse[place] = -std::numeric_limits<double>::infinity();
    if (!to.top1) return;
    const bool is_number = std::isfinite(negative_sum[i]) && !std::isnan(positive_total[i]);
    to.top1[place] = is_number && top_positive[i] > top_negative[i] ? 1 : 0;  // a tie is a miss
  }

 private:
  static void merge(T& max, double& sum, T other_max, double other_sum) {
    if (other_sum == 0) return;
    if (!(other_max > max)) {
      sum += other_sum * std::exp(static_cast<double>(other_max) - static_cast<double>(max));
    } else {
      sum = sum * std::exp(static_cast<double>(max) - static_cast<double>(other_max)) + other_sum;
      max = other_max;
    }
  }
};

/// mean_j l_ij = scale * x_i . mean(y), in double.
template <class T>
void write_logit_mean(const Operand<T>& of, const Operand<T>& over, double scale, double* to, int threads) {
  Buffer<double> mean(over.depth, 0.0);
  for (std::int64_t j = 0; j < over.count; ++j) {
    for (std::int64_t k = 0; k < over.depth; ++k) mean[k] += static_cast<double>(over.rows[j * over.stride + k]);
  }
  for (std::int64_t k = 0; over.count > 0 && k < over.depth; ++k) mean[k] /= static_cast<double>(over.count);
  parallel_ranges(threads, of.count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      to[of.places ? of.places[i] : i] = scale * dot(of.rows.data() + i * of.stride, mean.data(), of.depth);
    }
  });
}

template <class T>
void forward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns) {
  const int threads = problem.executor.threads;
  const Positives positives = Positives::in_order(problem);
  const Operands<T> operands(problem.query, &problem.key, problem.metric, Use::scores, problem.executor, false,
                             positives.places());
  Scorer<T> score(operands.row(), operands.column(), {problem.metric, 0});
  const Blocking blocking(problem.query.rows, threads, operands.row_block(), false);
  const bool both = columns.negative_lse != nullptr, tops = rows.top1 != nullptr || columns.top1 != nullptr;
  const T scale = static_cast<T>(problem.logit_scale);

  auto spaces = make_workspaces<T>(blocking, threads, positives.diagonal() ? 1 : 2);
  DirectionState<T> row_state(problem.query.rows, tops);
  std::vector<DirectionState<T>> column_states;
  for (int thread = 0; both && thread < threads; ++thread) column_states.emplace_back(blocking.columns, tops);

  for_tiles<T>(
      problem.query.rows, problem.key.rows, false, blocking, threads, score,
      [&](int thread, Tile<T> pairs) {
        const auto slot = static_cast<std::size_t>(thread);
        Workspace<T>& space = spaces[slot];
        DirectionState<T>* column_state = both ? &column_states[slot] : nullptr;
        const LogSumExp<T> none{nullptr, nullptr};
        const Tile<T> tile = with_data(pairs, space.scores);
        score(tile);
        score.level.scale_shift(tile, scale, T(0));
        const auto raise = [&](const Tile<T>& logits, Buffer<T> DirectionState<T>::* top) {
          T* of_column = both ? column_state->tops(column_state->*top, 0) : nullptr;
          score.level.raise_top(logits, row_state.tops(row_state.*top, tile.row0), of_column);
        };
        if (positives.diagonal()) {
          positives.for_diagonal(tile, [&](std::int64_t i, std::int64_t j) {
            T& logit = tile.data[i * tile.stride + j];
            row_state.add_positive(tile.row0 + i, logit);
            if (both) column_state->add_positive(j, logit);
            logit = -std::numeric_limits<T>::infinity();
          });
        } else if (positives.may_occur(tile)) {
          const Tile<T> positive = with_data(pairs, space.second);
          const bool any = score.level.split_positives(
              tile, positive, positives.rows(tile), positives.columns(tile), row_state.positive_count.data() + tile.row0,
              row_state.positive_total.data() + tile.row0, both ? column_state->positive_count.data() : nullptr,
              both ? column_state->positive_total.data() : nullptr);
          if (any) {
            // Exact shifts: the log-sum-exp of a single positive is then that positive, to the bit.
            score.level.add_exp(positive, row_state.positives(tile.row0), both ? column_state->positives(0) : none,
                                space.vectors.data(), true);
            if (tops) raise(positive, &DirectionState<T>::top_positive);
          }
        }
        score.level.add_exp(tile, row_state.negatives(tile.row0), both ? column_state->negatives(0) : none,
                            space.vectors.data(), false);
        if (tops) raise(tile, &DirectionState<T>::top_negative);
      },
      [&](std::int64_t column0, std::int64_t count) {
        if (!both) return;
        for (std::int64_t j = 0; j < count; ++j) {
          for (std::size_t thread = 1; thread < column_states.size(); ++thread) {
            column_states[0].join(j, column_states[thread], j);
          }
          column_states[0].write(j, positives.column_order().place(column0 + j), columns);
        }
        for (DirectionState<T>& state : column_states) state.clear();
      });
  for (std::int64_t i = 0; i < problem.query.rows; ++i) row_state.write(i, positives.row_order().place(i), rows);
  write_logit_mean(operands.row(), operands.column(), problem.logit_scale, rows.logit_mean, threads);
  if (both) write_logit_mean(operands.column(), operands.row(), problem.logit_scale, columns.logit_mean, threads);
}

/// One direction's statistics in the kernels' precision, ready for the gradient.
template <class T>
struct GradientSide {
  Buffer<T> weight, lse, positive_lse, negative_share, inverse_count, smoothing;

  GradientSide(const SoftmaxStatistics& from, const double* row_weight, const Order& order, std::int64_t count,
               std::int64_t others, double s)
      : weight(count),
        lse(count),
        positive_lse(count),
        negative_share(count),
        inverse_count(count),
        smoothing(s > 0 ? count : 0) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t place = order.place(i);
      const double negative = from.negative_lse[place], positive = from.positive_lse[place];
      const double high = std::max(negative, positive), low = std::min(negative, positive);
      weight[i] = static_cast<T>(row_weight[place]);
      lse[i] = static_cast<T>(high + std::log1p(std::exp(low - high)));
      positive_lse[i] = static_cast<T>(positive);
      negative_share[i] = static_cast<T>(1 / (1 + std::exp(positive - negative)));
      // The target of label smoothing is (1 - s) / count on positives and s / others everywhere: the first is folded in here, the
      // second is added to the whole tile.
      inverse_count[i] = static_cast<T>((1 - s) / from.positive_count[place]);
      if (s > 0) smoothing[i] = static_cast<T>(-row_weight[place] * s / static_cast<double>(others));
    }
  }
  SoftmaxSide<T> at(std::int64_t from) const {
    return {weight.data() + from, lse.data() + from, positive_lse.data() + from, negative_share.data() + from,
            inverse_count.data() + from};
  }
  T diagonal(std::int64_t i) const {
    return weight[i] == T(0) ? T(0) : weight[i] * ((T(1) - inverse_count[i]) - negative_share[i]);
  }
};

/// sum over all pairs of G_ij score_ij, from what G has already been multiplied into: sum_i x_i . (G Y)_i.
template <class T>
double weighted_score_sum(const Operand<T>& operand, const Buffer<T>& gradient, int threads) {
  Buffer<double> parts(operand.count);
  parallel_ranges(threads, operand.count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      parts[i] = dot(operand.rows.data() + i * operand.stride, gradient.data() + i * operand.stride, operand.depth);
    }
  });
  double total = 0;
  for (std::int64_t i = 0; i < operand.count; ++i) total += parts[i];
  return total;
}

/// Gradients of query and key, and of the scale, from the summed weights. Buffers are given back as soon as they are done with: the
/// results are written here, and the peak of the whole step is reached.
template <class T>
double finish(const ContrastiveProblem& problem, Operands<T>& operands, GradientSums<T>& sums, const Matrix* dquery,
              const Matrix* dkey) {
  double scale_gradient = 0;  // without pairs there are no sums either
  if (sums.row_gradient.size() > 0) {
    scale_gradient = weighted_score_sum(operands.row(), sums.row_gradient, problem.executor.threads);
  } else if (sums.column_gradient.size() > 0) {
    scale_gradient = weighted_score_sum(operands.column(), sums.column_gradient, problem.executor.threads);
  }
  operands.release_packed();
  if (dquery) finish_gradient(operands.row(), sums.row_gradient, problem.logit_scale, *dquery, problem.executor.threads);
  sums.row_gradient = Buffer<T>();
  operands.release_row();
  if (dkey) finish_gradient(operands.column(), sums.column_gradient, problem.logit_scale, *dkey, problem.executor.threads);
  return scale_gradient;
}

template <class T>
double backward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns,
                const double* row_weight, const double* column_weight, double label_smoothing, const Matrix* dquery,
                const Matrix* dkey) {
  const int threads = problem.executor.threads;
  const std::int64_t n = problem.query.rows, m = problem.key.rows;
  const Positives positives = Positives::in_order(problem);
  Operands<T> operands(problem.query, &problem.key, problem.metric, Use::scores_and_gradient, problem.executor, false,
                       positives.places());
  Scorer<T> score(operands.row(), operands.column(), {problem.metric, 0});
  const Blocking blocking(n, threads, operands.row_block(), false);
  const bool both = column_weight != nullptr;
  const GradientSide<T> row_side(rows, row_weight, positives.row_order(), n, m, label_smoothing);
  const GradientSide<T> column_side(both ? columns : rows, both ? column_weight : row_weight, positives.column_order(),
                                    both ? m : 0, n, label_smoothing);

  auto spaces = make_workspaces<T>(blocking, threads, positives.diagonal() ? 1 : 2);
  GradientSums<T> sums(score, blocking, threads, dquery || !dkey, dkey != nullptr, false);
  for_tiles<T>(
      n, m, false, blocking, threads, score,
      [&](int thread, Tile<T> pairs) {
        Workspace<T>& space = spaces[static_cast<std::size_t>(thread)];
        const Tile<T> tile = with_data(pairs, space.scores);
        const SoftmaxSide<T> row = row_side.at(tile.row0);
        const SoftmaxSide<T> column = both ? column_side.at(tile.column0) : SoftmaxSide<T>{};
        score(tile);
        score.level.scale_shift(tile, static_cast<T>(problem.logit_scale), T(0));
        const bool labelled = !positives.diagonal() && positives.may_occur(tile);
        const Tile<T> logits = with_data(pairs, space.second);
        if (labelled) std::copy(tile.data, tile.data + tile.rows * tile.stride, logits.data);
        score.level.softmax_weight(tile, row, column, space.vectors.data());
        if (labelled) {
          score.level.positive_weight(tile, logits, positives.rows(tile), positives.columns(tile), row, column);
        } else if (positives.diagonal()) {
          positives.for_diagonal(tile, [&](std::int64_t i, std::int64_t j) {
            tile.data[i * tile.stride + j] =
                row_side.diagonal(tile.row0 + i) + (both ? column_side.diagonal(tile.column0 + j) : T(0));
          });
        }
        if (label_smoothing > 0) {
          score.level.add_outer(tile, row_side.smoothing.data() + tile.row0,
                                both ? column_side.smoothing.data() + tile.column0 : nullptr);
        }
        sums.add(thread, tile);
      },
      [&](std::int64_t column0, std::int64_t count) { sums.finish_block(column0, count); });
  return finish(problem, operands, sums, dquery, dkey);
}

// ------------------------------------------------------------------------------------------------------------ sigmoid

template <class T>
void negate_positives(const Scorer<T>& score, const Positives& positives, const Tile<T>& tile) {
  if (positives.diagonal()) {
    positives.for_diagonal(
        tile, [&](std::int64_t i, std::int64_t j) { tile.data[i * tile.stride + j] = -tile.data[i * tile.stride + j]; });
  } else if (positives.may_occur(tile)) {
    score.level.negate_positives(tile, positives.rows(tile), positives.columns(tile));
  }
}

/// logits = scale * score + bias, negated on positive pairs: a positive is a negative pair of the opposite logit.
template <class T>
void signed_logits(const Scorer<T>& score, const ContrastiveProblem& problem, const Positives& positives, double bias,
                   const Tile<T>& tile) {
  score(tile);
  score.level.scale_shift(tile, static_cast<T>(problem.logit_scale), static_cast<T>(bias));
  negate_positives(score, positives, tile);
}

template <class T>
void sigmoid_losses(const ContrastiveProblem& problem, double bias, double* row_loss) {
  const Operands<T> operands(problem.query, &problem.key, problem.metric, Use::scores, problem.executor);
  Scorer<T> score(operands.row(), operands.column(), {problem.metric, 0});
  const Blocking blocking(problem.query.rows, problem.executor.threads, operands.row_block(), false);
  const Positives positives(problem);
  auto spaces = make_workspaces<T>(blocking, problem.executor.threads, 1);
  std::fill(row_loss, row_loss + problem.query.rows, 0.0);
  for_tiles<T>(
      problem.query.rows, problem.key.rows, false, blocking, problem.executor.threads, score,
      [&](int thread, Tile<T> pairs) {
        const Tile<T> tile = with_data(pairs, spaces[static_cast<std::size_t>(thread)].scores);
        signed_logits(score, problem, positives, bias, tile);
        score.level.sum_softplus(tile, row_loss + tile.row0);
      },
      [](std::int64_t, std::int64_t) {});
}

template <class T>
ScalarGradients sigmoid_gradients(const ContrastiveProblem& problem, double bias, const double* row_weight,
                                  const Matrix* dquery, const Matrix* dkey) {
  const std::int64_t n = problem.query.rows;
  const Positives positives(problem);
  Operands<T> operands(problem.query, &problem.key, problem.metric, Use::scores_and_gradient, problem.executor);
  Scorer<T> score(operands.row(), operands.column(), {problem.metric, 0});
  const Blocking blocking(n, problem.executor.threads, operands.row_block(), false);
  auto spaces = make_workspaces<T>(blocking, problem.executor.threads, 1);
  Buffer<T> weight(n);
  for (std::int64_t i = 0; i < n; ++i) weight[i] = static_cast<T>(row_weight[i]);
  Buffer<double> row_sum(n, 0.0);
  GradientSums<T> sums(score, blocking, problem.executor.threads, dquery || !dkey, dkey != nullptr, false);
  for_tiles<T>(
      n, problem.key.rows, false, blocking, problem.executor.threads, score,
      [&](int thread, Tile<T> pairs) {
        const Tile<T> tile = with_data(pairs, spaces[static_cast<std::size_t>(thread)].scores);
        signed_logits(score, problem, positives, bias, tile);
        score.level.sigmoid_weight(tile, weight.data() + tile.row0);
        negate_positives(score, positives, tile);
        score.level.add_sums(tile, row_sum.data() + tile.row0, nullptr);
        sums.add(thread, tile);
      },
      [&](std::int64_t column0, std::int64_t count) { sums.finish_block(column0, count); });
  double bias_gradient = 0;
  for (std::int64_t i = 0; i < n; ++i) bias_gradient += row_sum[i];
  return {finish(problem, operands, sums, dquery, dkey), bias_gradient};
}

}  // namespace

void info_nce_forward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns) {
  with_compute_type(problem.query.dtype, [&](auto zero) { forward<decltype(zero)>(problem, rows, columns); });
}

double info_nce_backward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns,
                         const double* row_weight, const double* column_weight, double label_smoothing, const Matrix* dquery,
                         const Matrix* dkey) {
  double scale_gradient = 0;
  with_compute_type(problem.query.dtype, [&](auto zero) {
    scale_gradient = backward<decltype(zero)>(problem, rows, columns, row_weight, column_weight, label_smoothing, dquery, dkey);
  });
  return scale_gradient;
}

void sigmoid_forward(const ContrastiveProblem& problem, double logit_bias, double* row_loss) {
  with_compute_type(problem.query.dtype, [&](auto zero) { sigmoid_losses<decltype(zero)>(problem, logit_bias, row_loss); });
}

ScalarGradients sigmoid_backward(const ContrastiveProblem& problem, double logit_bias, const double* row_weight,
                                 const Matrix* dquery, const Matrix* dkey) {
  ScalarGradients gradients{};
  with_compute_type(problem.query.dtype, [&](auto zero) {
    gradients = sigmoid_gradients<decltype(zero)>(problem, logit_bias, row_weight, dquery, dkey);
  });
  return gradients;
}

}  // namespace b2m
