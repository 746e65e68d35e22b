// Loops over the columns of a tile's row, whole vectors first, and what every group of kernels shares.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "pair/math.h"

namespace b2m {
namespace {

struct AllLanes {};  // the mask of a whole vector, free at compile time
template <class V>
B2M_INLINE V select(AllLanes, V yes, V) {
  return yes;
}
template <class M>
B2M_INLINE M both(AllLanes, M m) {
  return m;
}
template <class M>
B2M_INLINE M both(M a, M b) {
  return a & b;
}

/// body(j, valid) for every vector of a row; `valid` leaves out the lanes beyond the last column.
template <class V, class Body>
B2M_INLINE void for_columns(std::int64_t columns, Body body) {
  using integer = typename V::integer;
  std::int64_t j = 0;
  for (; j + V::width <= columns; j += V::width) body(j, AllLanes());
  if (j < columns) {
    const auto limit = V::broadcast_integer(static_cast<integer>(columns - j));
    const typename V::mask valid = V::lane_index() < limit;
    body(j, valid);
  }
}

template <class T>
B2M_INLINE T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
B2M_INLINE T smaller(T a, T b) {
  return a < b ? a : b;
}
template <class T>
constexpr T infinity() {
  return pair::MathConstants<T>::infinity;
}

template <class V, class T = typename V::scalar>
T row_maximum(const T* row, std::int64_t columns) {
  V best(-infinity<T>());
  for_columns<V>(columns, [&](std::int64_t j, auto valid) {
    const V value = select(valid, V::load(row + j), V(-infinity<T>()));
    best = select(value > best, value, best);
  });
  return reduce_max(best);
}

}  // namespace
}  // namespace b2m
