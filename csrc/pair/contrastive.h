// What the contrastive losses do with one score, over any lane type. l is a logit: logit_scale * similarity (+ bias).
#pragma once

#include "pair/math.h"

namespace b2m {
namespace pair {

/// Gradient of both softmax directions for a negative pair, one exponential serving both:
/// row_weight exp(l - row_lse) + column_weight exp(l - column_lse) = exp(l - shift) (row_factor + column_factor) with
/// factor = weight exp(shift - lse).
template <class V>
B2M_INLINE V shared_softmax_weight(V l, V shift, V row_factor, V column_factor) {
  return exp<V>(l - shift) * (row_factor + column_factor);
}

/// The same with a shift of its own for each direction, for tiles whose log-sum-exps lie too far apart to share one.
template <class V>
B2M_INLINE V split_softmax_weight(V l, V row_lse, V row_weight, V column_lse, V column_weight) {
  return row_weight * exp<V>(l - row_lse) + column_weight * exp<V>(l - column_lse);
}

/// Gradient weight of one direction for a positive pair, with the positive kept out of the sum:
/// p - 1/count = (exp(l - positive_lse) - 1/count) - exp(l - positive_lse) * negative_share.
/// With a single positive the bracket is exactly 0, so a nearly converged pair keeps its relative accuracy.
template <class V>
B2M_INLINE V positive_weight(V l, V positive_lse, V inverse_count, V negative_share) {
  const V share = exp<V>(l - positive_lse);
  return (share - inverse_count) - share * negative_share;
}

/// SigLIP: -log sigmoid(-l) of a negative pair and its derivative; a positive pair is the same with l negated.
template <class V>
B2M_INLINE V sigmoid_loss(V l) {
  return softplus<V>(l);
}
template <class V>
B2M_INLINE V sigmoid_loss_derivative(V l) {
  return sigmoid<V>(l);
}

}  // namespace pair
}  // namespace b2m
