// Kernels of the squared euclidean distance q = |x - y|^2, and their derivatives, over any lane type.
#pragma once

#include "pair/math.h"

namespace b2m {
namespace pair {

/// d = sqrt(q); dd/dq = 1/(2 d), taken as 0 at d = 0 (the subgradient that leaves coinciding points alone).
template <class V>
B2M_INLINE V euclidean(V q) {
  return square_root(q);
}
template <class V>
B2M_INLINE V euclidean_derivative(V d) {
  using T = typename Lane<V>::scalar;
  const V slope = V(T(0.5)) / d;
  return select(d > V(T(0)), slope, select(d < V(T(0)), slope, d * V(T(0))));  // NaN stays NaN
}

/// r = exp(-gamma q); dr/dq = -gamma r.
template <class V>
B2M_INLINE V rbf(V q, V gamma) {
  return exp<V>(-(gamma * q));
}
template <class V>
B2M_INLINE V rbf_derivative(V r, V gamma) {
  return -(gamma * r);
}

}  // namespace pair
}  // namespace b2m
