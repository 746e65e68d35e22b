// What the comparisons of two similarity matrices do with one pair, over any lane type.
// c: the model's similarity, t: the target's, e: Li et al.'s epsilon.
#pragma once

#include "pair/math.h"

namespace b2m {
namespace pair {

/// F(c) - F(t) with F(x) = 0.5 [log(1 + x + e) - log(1 - x + e)], as ONE inverse hyperbolic tangent:
/// with a = 1 + e, F(c) - F(t) = atanh(a (c - t) / (a^2 - c t)). Cheaper than two logarithms, and it does not lose the
/// digits of c - t when the two are close.
template <class V>
B2M_INLINE V atanh_difference(V c, V t, V a) {
  return atanh<V>(a * (c - t) / (a * a - c * t));
}

/// dF/dc = a / (a^2 - c^2).
template <class V>
B2M_INLINE V atanh_slope(V c, V a) {
  return a / ((a - c) * (a + c));
}

/// dL/dc of every comparison that is a function of the first and second moments of (c, t): linear in both.
template <class V>
B2M_INLINE V linear_weight(V c, V t, V constant, V of_c, V of_t) {
  return constant + of_c * c + of_t * t;
}

}  // namespace pair
}  // namespace b2m
