// Kernels that compare two tiles of scores over the pairs above the diagonal.
#pragma once

#include "cpu/lanes_impl.h"
#include "pair/rsa.h"

namespace b2m {
namespace {

/// body(j, valid) over the pairs of row i that lie above the diagonal of the whole problem.
template <class V, class T, class Body>
B2M_INLINE void for_upper(const Tile<T>& tile, std::int64_t i, Body body) {
  const std::int64_t first = tile.row0 + i + 1 - tile.column0;  // first counted column, in tile coordinates
  if (first <= 0) return for_columns<V>(tile.columns, body);
  if (first >= tile.columns) return;
  const std::int64_t start = first / V::width * V::width;
  const auto shifted_first = V::broadcast_integer(static_cast<typename V::integer>(first - start - 1));
  const typename V::mask above = V::lane_index() > shifted_first;
  for_columns<V>(tile.columns - start, [&](std::int64_t j, auto valid) {
    if (j == 0) {
      body(start, both(valid, above));
    } else {
      body(start + j, valid);
    }
  });
}

template <class V, class T>
B2M_INLINE V load_weight(const Tile<T>& w, std::int64_t i, std::int64_t j) {
  return w.data ? V::load(w.data + i * w.stride + j) : V(T(1));
}

template <class V, class T = typename V::scalar>
void add_moments(Tile<T> c, Tile<T> t, Tile<T> w, T c_shift, T t_shift, Moments& total, double* c_row, double* t_row,
                 double* c_column, double* t_column) {
  for (std::int64_t i = 0; i < c.rows; ++i) {
    const V zero(T(0));
    V sw = zero, sc = zero, st = zero, scc = zero, stt = zero, sct = zero;
    for_upper<V>(c, i, [&](std::int64_t j, auto valid) {
      const V pair_weight = select(valid, load_weight<V>(w, i, j), zero);
      const V cv = select(valid, V::load(c.data + i * c.stride + j) - V(c_shift), zero);
      const V tv = select(valid, V::load(t.data + i * t.stride + j) - V(t_shift), zero);
      const V wc = pair_weight * cv, wt = pair_weight * tv;
      sw = sw + pair_weight;
      sc = sc + wc;
      st = st + wt;
      scc = scc + wc * cv;
      stt = stt + wt * tv;
      sct = sct + wc * tv;
      if (c_row) {
        for (int lane = 0; lane < V::width; ++lane) {
          if (j + lane >= c.columns) break;
          c_column[j + lane] += static_cast<double>(cv.v[lane]);
          t_column[j + lane] += static_cast<double>(tv.v[lane]);
        }
      }
    });
    total.w += static_cast<double>(reduce_add(sw));
    total.wc += static_cast<double>(reduce_add(sc));
    total.wt += static_cast<double>(reduce_add(st));
    total.wcc += static_cast<double>(reduce_add(scc));
    total.wtt += static_cast<double>(reduce_add(stt));
    total.wct += static_cast<double>(reduce_add(sct));
    if (c_row) {
      c_row[i] += static_cast<double>(reduce_add(sc));
      t_row[i] += static_cast<double>(reduce_add(st));
    }
  }
}

/// Clears what for_upper leaves out, so that the pairs on and below the diagonal carry no gradient.
template <class T>
B2M_INLINE void clear_lower(Tile<T>& tile, std::int64_t i) {
  const std::int64_t last = tile.row0 + i + 1 - tile.column0;
  for (std::int64_t j = 0; j < last && j < tile.columns; ++j) tile.data[i * tile.stride + j] = T(0);
}

template <class V, class T = typename V::scalar>
void linear_weight(Tile<T> c, Tile<T> t, Tile<T> w, const LinearWeight<T>& weight) {
  const V zero(T(0));
  for (std::int64_t i = 0; i < c.rows; ++i) {
    const V of_row(weight.per_row ? weight.per_row[c.row0 + i] : T(0));
    for_upper<V>(c, i, [&](std::int64_t j, auto valid) {
      T* at = c.data + i * c.stride + j;
      const V cv = V::load(at) - V(weight.c_shift);
      const V tv = V::load(t.data + i * t.stride + j) - V(weight.t_shift);
      V g = load_weight<V>(w, i, j) * pair::linear_weight<V>(cv, tv, V(weight.constant), V(weight.of_c), V(weight.of_t));
      if (weight.per_row) g = g + of_row + V::load(weight.per_row + c.column0 + j);
      select(valid, g, zero).store(at);
    });
    clear_lower(c, i);
  }
}

struct PlainDifference {
  template <class V>
  static B2M_INLINE V of(V c, V t, V) {
    return c - t;
  }
  template <class V>
  static B2M_INLINE V slope(V, V) {
    return V(typename Lane<V>::scalar(1));
  }
};
struct AtanhDifference {
  template <class V>
  static B2M_INLINE V of(V c, V t, V epsilon) {
    return pair::atanh_difference<V>(c, t, epsilon);
  }
  template <class V>
  static B2M_INLINE V slope(V c, V epsilon) {
    return pair::atanh_slope<V>(c, epsilon);
  }
};

/// sum of w and of w difference(c, t)^2; `weigh`: c becomes the gradient of the latter.
template <class V, class Difference, bool weigh, class T = typename V::scalar>
void add_difference(Tile<T> c, Tile<T> t, Tile<T> w, T epsilon, double& weight, double& total) {
  const V zero(T(0));
  for (std::int64_t i = 0; i < c.rows; ++i) {
    V sum = zero, sum_weight = zero;
    for_upper<V>(c, i, [&](std::int64_t j, auto valid) {
      T* at = c.data + i * c.stride + j;
      const V cv = V::load(at);
      const V pair_weight = select(valid, load_weight<V>(w, i, j), zero);
      const V difference = Difference::template of<V>(cv, V::load(t.data + i * t.stride + j), V(epsilon));
      const V weighted = pair_weight * difference;
      sum = sum + select(valid, weighted * difference, zero);
      sum_weight = sum_weight + pair_weight;
      if constexpr (weigh) {
        select(valid, V(T(2)) * weighted * Difference::template slope<V>(cv, V(epsilon)), zero).store(at);
      }
    });
    if constexpr (weigh) clear_lower(c, i);
    total += static_cast<double>(reduce_add(sum));
    weight += static_cast<double>(reduce_add(sum_weight));
  }
}

}  // namespace
}  // namespace b2m
