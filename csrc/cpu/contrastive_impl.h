// Kernels of the contrastive losses: running log-sum-exps, softmax and sigmoid weights, positives.
#pragma once

#include "cpu/lanes_impl.h"
#include "pair/contrastive.h"

namespace b2m {
namespace {

/// Adds part * exp(shift) to the running sum * exp(max) of one row or column.
template <class T>
B2M_INLINE void merge(T& max, double& sum, T shift, double part) {
  if (shift == -infinity<T>()) return;  // nothing was added
  if (!(shift > max)) {
    sum += part * static_cast<double>(pair::exp<T>(shift - max));
  } else {
    sum = sum * static_cast<double>(pair::exp<T>(max - shift)) + part;
    max = shift;
  }
}

// A shared shift loses nothing while every row and column of the tile reaches exp(-kSpread) of the tile's largest term: single
// precision then still holds terms of exp(-27) of a row's sum, double of exp(-100).
template <class T>
constexpr T kSpread = T(sizeof(T) == 4 ? 60 : 600);

template <class T>
constexpr T kLargest = T(sizeof(T) == 4 ? 3.402823466e38 : 1.7976931348623157e308);

/// Each row and column with a shift of its own: two exponentials a pair, no assumption about the logits.
template <class V, class T = typename V::scalar>
void add_exp_exact(Tile<T> l, LogSumExp<T> row, LogSumExp<T> column, T* scratch) {
  const std::int64_t padded = (l.columns + V::width - 1) / V::width * V::width;
  T* column_max = scratch;
  T* column_sum = scratch + padded;
  if (column.max) {
    for (std::int64_t j = 0; j < padded; j += V::width) {
      V best(-infinity<T>());
      for (std::int64_t i = 0; i < l.rows; ++i) {
        const V value = V::load(l.data + i * l.stride + j);
        best = select(value > best, value, best);
      }
      best.store(column_max + j);
      V(T(0)).store(column_sum + j);
    }
  }
  for (std::int64_t i = 0; i < l.rows; ++i) {
    const T* from = l.data + i * l.stride;
    const T row_max = row_maximum<V>(from, l.columns);
    // -inf as a shift would turn exp(-inf - -inf) into NaN; with 0 instead every term is exp(-inf) = 0.
    const V row_shift(row_max == -infinity<T>() ? T(0) : row_max);
    V row_sum(T(0));
    for_columns<V>(l.columns, [&](std::int64_t j, auto valid) {
      const V value = select(valid, V::load(from + j), V(-infinity<T>()));
      row_sum = row_sum + pair::exp<V>(value - row_shift);
      if (column.max) {
        V shift = V::load(column_max + j);
        shift = select(shift < V(-kLargest<T>), V(T(0)), shift);
        (V::load(column_sum + j) + pair::exp<V>(value - shift)).store(column_sum + j);
      }
    });
    const T part = reduce_add(row_sum);
    if (row_max != -infinity<T>() || part != T(0)) {
      merge(row.max[i], row.sum[i], row_max == -infinity<T>() ? T(0) : row_max, static_cast<double>(part));
    }
  }
  if (!column.max) return;
  for (std::int64_t j = 0; j < l.columns; ++j) {
    const bool empty = column_max[j] == -infinity<T>();
    if (!empty || column_sum[j] != T(0)) {
      merge(column.max[j], column.sum[j], empty ? T(0) : column_max[j], static_cast<double>(column_sum[j]));
    }
  }
}

/// One exponential a pair: a shift shared by the tile serves rows and columns. Returns false, having added nothing, when some row
/// or column lies too far below the tile's largest logit.
template <class V, class T = typename V::scalar>
bool add_exp_shared(Tile<T> l, LogSumExp<T> row, LogSumExp<T> column, T* scratch) {
  const std::int64_t padded = (l.columns + V::width - 1) / V::width * V::width;
  T* column_sum = scratch;
  T* row_sum = scratch + padded;
  T shift = -infinity<T>();
  for (std::int64_t i = 0; i < l.rows; ++i) shift = larger(row_maximum<V>(l.data + i * l.stride, l.columns), shift);
  if (!(shift > -infinity<T>() && shift < infinity<T>())) return false;
  for (std::int64_t j = 0; j < padded; j += V::width) V(T(0)).store(column_sum + j);
  for (std::int64_t i = 0; i < l.rows; ++i) {
    const T* from = l.data + i * l.stride;
    V sum(T(0));
    for_columns<V>(l.columns, [&](std::int64_t j, auto valid) {
      const V term = pair::exp<V>(select(valid, V::load(from + j), V(-infinity<T>())) - V(shift));
      sum = sum + term;
      (V::load(column_sum + j) + term).store(column_sum + j);
    });
    row_sum[i] = reduce_add(sum);
  }
  const T least = pair::exp<T>(-kSpread<T>);
  for (std::int64_t i = 0; i < l.rows; ++i) {
    if (row_sum[i] < least) return false;  // false for NaN: that row's result is NaN either way
  }
  if (column.max) {
    for (std::int64_t j = 0; j < l.columns; ++j) {
      if (column_sum[j] < least) return false;
    }
  }
  for (std::int64_t i = 0; i < l.rows; ++i) merge(row.max[i], row.sum[i], shift, static_cast<double>(row_sum[i]));
  if (column.max) {
    for (std::int64_t j = 0; j < l.columns; ++j) {
      merge(column.max[j], column.sum[j], shift, static_cast<double>(column_sum[j]));
    }
  }
  return true;
}

template <class V, class T = typename V::scalar>
void add_exp(Tile<T> l, LogSumExp<T> row, LogSumExp<T> column, T* scratch, bool exact) {
  if (exact || !add_exp_shared<V>(l, row, column, scratch)) add_exp_exact<V>(l, row, column, scratch);
}

template <class V, class T = typename V::scalar>
void raise_top(Tile<T> l, T* row_top, T* column_top) {
  for (std::int64_t i = 0; i < l.rows; ++i) {
    const T* from = l.data + i * l.stride;
    row_top[i] = larger(row_maximum<V>(from, l.columns), row_top[i]);
    for (std::int64_t j = 0; column_top && j < l.columns; ++j) column_top[j] = larger(from[j], column_top[j]);
  }
}

template <class V, class T = typename V::scalar>
bool split_positives(Tile<T> l, Tile<T> positive, const std::int32_t* row_label, const std::int32_t* column_label, T* row_count,
                     double* row_sum, T* column_count, double* column_sum) {
  bool any = false;
  for (std::int64_t i = 0; i < l.rows; ++i) {
    T* from = l.data + i * l.stride;
    T* to = positive.data + i * positive.stride;
    for (std::int64_t j = 0; j < l.columns; ++j) {
      const bool agree = row_label[i] == column_label[j];
      const T value = from[j];
      to[j] = agree ? value : -infinity<T>();
      from[j] = agree ? -infinity<T>() : value;
      any |= agree;
      if (agree) {
        row_count[i] += T(1);
        row_sum[i] += static_cast<double>(value);
        if (column_count) {
          column_count[j] += T(1);
          column_sum[j] += static_cast<double>(value);
        }
      }
    }
  }
  return any;
}

template <class V, class T = typename V::scalar>
void negate_positives(Tile<T> l, const std::int32_t* row_label, const std::int32_t* column_label) {
  for (std::int64_t i = 0; i < l.rows; ++i) {
    T* row = l.data + i * l.stride;
    for (std::int64_t j = 0; j < l.columns; ++j) row[j] = row_label[i] == column_label[j] ? -row[j] : row[j];
  }
}

/// [low, high] becomes the range of the log-sum-exps of the entries that carry weight.
template <class T>
B2M_INLINE void widen_range(const SoftmaxSide<T>& side, std::int64_t count, T& low, T& high) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (side.weight[i] == T(0)) continue;
    low = smaller(side.lse[i], low);
    high = larger(side.lse[i], high);
  }
}

template <class V, class T = typename V::scalar>
void softmax_weight(Tile<T> l, SoftmaxSide<T> row, SoftmaxSide<T> column, T* scratch) {
  const std::int64_t padded = (l.columns + V::width - 1) / V::width * V::width;
  T* column_factor = scratch;
  T* column_lse = scratch + padded;
  T low = infinity<T>(), high = -infinity<T>();
  widen_range(row, l.rows, low, high);
  if (column.weight) widen_range(column, l.columns, low, high);
  const T shift = low <= high ? T(0.5) * (low + high) : T(0);
  // exp(l - shift) must not overflow (l <= lse <= high), nor the factors exp(shift - lse).
  const bool shared = !(high - low > T(sizeof(T) == 4 ? 80 : 800));
  for (std::int64_t j = 0; j < padded; ++j) {
    const bool used = column.weight && j < l.columns && column.weight[j] != T(0);
    column_lse[j] = used ? column.lse[j] : infinity<T>();
    column_factor[j] = used ? (shared ? column.weight[j] * pair::exp<T>(shift - column.lse[j]) : column.weight[j]) : T(0);
  }
  for (std::int64_t i = 0; i < l.rows; ++i) {
    T* data = l.data + i * l.stride;
    const bool used = row.weight[i] != T(0);
    if (shared) {
      const V factor(used ? row.weight[i] * pair::exp<T>(shift - row.lse[i]) : T(0));
      for (std::int64_t j = 0; j < padded; j += V::width) {
        // A logit above every log-sum-exp belongs to a row and a column without weight; clamped it meets their zero factors.
        const V value = V::load(data + j);
        const V limited = select(value > V(high), V(high), value);
        pair::shared_softmax_weight<V>(limited, V(shift), factor, V::load(column_factor + j)).store(data + j);
      }
    } else {
      const V lse(used ? row.lse[i] : infinity<T>());
      const V weight(used ? row.weight[i] : T(0));
      for (std::int64_t j = 0; j < padded; j += V::width) {
        pair::split_softmax_weight<V>(V::load(data + j), lse, weight, V::load(column_lse + j), V::load(column_factor + j))
            .store(data + j);
      }
    }
  }
}

template <class T>
B2M_INLINE T positive_side(T l, const SoftmaxSide<T>& side, std::int64_t index) {
  if (side.weight[index] == T(0)) return T(0);
  return side.weight[index] *
         pair::positive_weight<T>(l, side.positive_lse[index], side.inverse_count[index], side.negative_share[index]);
}

template <class V, class T = typename V::scalar>
void positive_weight(Tile<T> weight, Tile<T> l, const std::int32_t* row_label, const std::int32_t* column_label,
                     SoftmaxSide<T> row, SoftmaxSide<T> column) {
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    T* to = weight.data + i * weight.stride;
    const T* from = l.data + i * l.stride;
    for (std::int64_t j = 0; j < weight.columns; ++j) {
      if (row_label[i] != column_label[j]) continue;
      to[j] = positive_side(from[j], row, i) + (column.weight ? positive_side(from[j], column, j) : T(0));
    }
  }
}

template <class V, class T = typename V::scalar>
void add_outer(Tile<T> weight, const T* row, const T* column) {
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    T* to = weight.data + i * weight.stride;
    for (std::int64_t j = 0; j < weight.columns; ++j) to[j] += row[i] + (column ? column[j] : T(0));
  }
}

template <class V, class T = typename V::scalar>
void sum_softplus(Tile<T> l, double* row_sum) {
  for (std::int64_t i = 0; i < l.rows; ++i) {
    const T* from = l.data + i * l.stride;
    V sum(T(0));
    for_columns<V>(l.columns, [&](std::int64_t j, auto valid) {
      sum = sum + select(valid, pair::sigmoid_loss<V>(V::load(from + j)), V(T(0)));
    });
    row_sum[i] += static_cast<double>(reduce_add(sum));
  }
}

template <class V, class T = typename V::scalar>
void sigmoid_weight(Tile<T> l, const T* row_weight) {
  for (std::int64_t i = 0; i < l.rows; ++i) {
    T* row = l.data + i * l.stride;
    const V weight(row_weight[i]);
    for (std::int64_t j = 0; j < l.columns; j += V::width) {
      (weight * pair::sigmoid_loss_derivative<V>(V::load(row + j))).store(row + j);
    }
  }
}

}  // namespace
}  // namespace b2m
