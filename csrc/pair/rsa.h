// What the comparisons of two similarity matrices do with one pair, over any lane type.
// c: the model's similarity, t: the target's, e: Li et al.'s epsilon.
#pragma once

#include "pair/math.h"

namespace b2m {
namespace pair {

/// F(c) - F(t) with F(x) = 0.5 log((1 + x + e) / (1 - x + e)), as ONE logarithm: for c >= t
///     0.5 log(1 + 2 (1 + e) (c - t) / ((1 - c + e) (1 + t + e))),
/// a sum of positive terms throughout, so neither c near t nor c near 1 loses digits; and F(c) - F(t) = -(F(t) - F(c)).
template <class V>
B2M_INLINE V atanh_difference(V c, V t, V e) {
  using T = typename Lane<V>::scalar;
  const V one = V(T(1));
  const V high = select(c > t, c, t), low = select(c > t, t, c);
  const V ratio = V(T(2)) * (one + e) * (high - low) / (((one - high) + e) * ((one + low) + e));
  const V magnitude = V(T(0.5)) * log1p<V>(ratio);
  return select(c > t, magnitude, -magnitude);
}

/// dF/dc = (1 + e) / ((1 - c + e) (1 + c + e)).
template <class V>
B2M_INLINE V atanh_slope(V c, V e) {
  using T = typename Lane<V>::scalar;
  const V one = V(T(1));
  return (one + e) / (((one - c) + e) * ((one + c) + e));
}

/// dL/dc of every comparison that is a function of the first and second moments of (c, t): linear in both.
template <class V>
B2M_INLINE V linear_weight(V c, V t, V constant, V of_c, V of_t) {
  return constant + of_c * c + of_t * t;
}

}  // namespace pair
}  // namespace b2m
