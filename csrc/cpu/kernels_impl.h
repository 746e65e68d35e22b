// The kernels of one instruction level, as templates over the vector type of cpu/simd.h.
//
// Included once per level, under that level's compiler flags, by csrc/cpu/isa_*.cpp. Internal linkage throughout, and nothing
// of the standard library: a template instantiated here must never become a symbol that another level's code could call.
#pragma once

#include "cpu/comparison_impl.h"
#include "cpu/contrastive_impl.h"
#include "cpu/kernels.h"
#include "cpu/lanes_impl.h"
#include "cpu/products_impl.h"
#include "cpu/simd.h"
#include "pair/metric.h"

namespace b2m {
namespace {

template <class V, class T = typename V::scalar>
void distance_value(Tile<T> q, DistanceKernel kernel, T gamma) {
  if (kernel == DistanceKernel::sqeuclidean) return;
  for (std::int64_t i = 0; i < q.rows; ++i) {
    T* row = q.data + i * q.stride;
    for (std::int64_t j = 0; j < q.columns; j += V::width) {
      const V value = V::load(row + j);
      (kernel == DistanceKernel::euclidean ? pair::euclidean<V>(value) : pair::rbf<V>(value, V(gamma))).store(row + j);
    }
  }
}

template <class V, class T = typename V::scalar>
void distance_chain(Tile<T> weight, Tile<T> value, DistanceKernel kernel, T gamma) {
  if (kernel == DistanceKernel::sqeuclidean) return;
  for (std::int64_t i = 0; i < weight.rows; ++i) {
    T* row = weight.data + i * weight.stride;
    const T* from = value.data + i * value.stride;
    for (std::int64_t j = 0; j < weight.columns; j += V::width) {
      const V v = V::load(from + j);
      const V slope =
          kernel == DistanceKernel::euclidean ? pair::euclidean_derivative<V>(v) : pair::rbf_derivative<V>(v, V(gamma));
      (V::load(row + j) * slope).store(row + j);
    }
  }
}

template <class V, class T = typename V::scalar>
void scale_shift(Tile<T> l, T scale, T shift) {
  for (std::int64_t i = 0; i < l.rows; ++i) {
    T* row = l.data + i * l.stride;
    for (std::int64_t j = 0; j < l.columns; j += V::width) (V::load(row + j) * V(scale) + V(shift)).store(row + j);
  }
}

template <class V, class T = typename V::scalar>
void add_sums(Tile<T> values, double* row, double* column) {
  for (std::int64_t i = 0; i < values.rows; ++i) {
    const T* from = values.data + i * values.stride;
    V sum(T(0));
    for_columns<V>(values.columns, [&](std::int64_t j, auto valid) { sum = sum + select(valid, V::load(from + j), V(T(0))); });
    if (row) row[i] += static_cast<double>(reduce_add(sum));
    for (std::int64_t j = 0; column && j < values.columns; ++j) column[j] += static_cast<double>(from[j]);
  }
}

template <class V, class T = typename V::scalar>
void run_maxima(const T* row, std::int64_t columns, T* maxima) {
  for (std::int64_t first = 0; first < columns; first += kMaximaRun) {
    maxima[first / kMaximaRun] = row_maximum<V>(row + first, smaller(kMaximaRun, columns - first));
  }
}

// ---------------------------------------------------------------------------------------------------- the table

template <class T, int kBytes, int kRowBlock>
constexpr Kernels<T> make_kernels() {
  using V = Vec<T, kBytes>;
  return Kernels<T>{V::width,
                    kRowBlock,
                    kPanelVectors * V::width,
                    product<V, kRowBlock>,
                    squared_distance<V, kRowBlock>,
                    distance_value<V>,
                    distance_chain<V>,
                    scale_shift<V>,
                    add_exp<V>,
                    raise_top<V>,
                    split_positives<V>,
                    negate_positives<V>,
                    softmax_weight<V>,
                    positive_weight<V>,
                    add_outer<V>,
                    sum_softplus<V>,
                    sigmoid_weight<V>,
                    add_sums<V>,
                    add_moments<V>,
                    linear_weight<V>,
                    add_difference<V, PlainDifference, false>,
                    add_difference<V, AtanhDifference, false>,
                    add_difference<V, PlainDifference, true>,
                    add_difference<V, AtanhDifference, true>,
                    run_maxima<V>};
}

}  // namespace
}  // namespace b2m
