// Comparing two similarity matrices over the pairs i < j, and the gradient for the patterns behind the first.
#pragma once

#include "b2m/types.h"

namespace b2m {

/// One side of a comparison: patterns scored on the fly, or scores somebody stored.
struct Similarities {
  enum class Kind : int { patterns, matrix, condensed };
  Kind kind;
  Matrix data;      // patterns (n, d), matrix (n, n), condensed (1, n(n-1)/2); the last two may be a mapped file
  Scoring scoring;  // patterns only
};

/// c: the model's scores, t: the target's; weights null: every pair counts 1.
struct Comparison {
  std::int64_t count;  // n items
  Similarities c;
  Similarities t;
  const Similarities* weights;
  Executor executor;
};

/// Sums over pairs of c' = c - c_shift and t' = t - t_shift, weighted: w, w c', w t', w c'c', w t't', w c't' in double.
/// c_row, t_row (n doubles each, or null; without weights): sum of c'_ij, t'_ij over j != i.
struct PairMoments {
  double w, wc, wt, wcc, wtt, wct;
};
PairMoments pair_moments(const Comparison& comparison, double c_shift, double t_shift, double* c_row, double* t_row);

/// A typical score, to shift by: moments of values shifted near their mean do not cancel. Exact mean for bilinear patterns, else the
/// mean of a first tile.
double typical_score(const Similarities& similarities, std::int64_t count, const Executor& executor);

/// What a difference is taken of: the scores themselves, or Fisher's z with Li et al.'s epsilon,
/// F(x) = 0.5 [log(1 + x + e) - log(1 - x + e)].
enum class Transform : int { identity, atanh };

/// sum w (F(c) - F(t))^2 / sum w, 0 where the weights sum to 0. dc: where its gradient for the patterns of c goes; null: not wanted.
double mean_squared_difference(const Comparison& comparison, Transform transform, double epsilon, const Matrix* dc);

/// Gradient for the patterns of c when dL/dc_ij = w_ij (constant + of_c c'_ij + of_t t'_ij) + per_item[i] + per_item[j] for i < j and
/// dL/dc_ii = diagonal[i]. per_item, diagonal: n doubles or null.
struct LinearGradient {
  double c_shift, t_shift, constant, of_c, of_t;
  const double* per_item;
  const double* diagonal;
};
void linear_gradient(const Comparison& comparison, const LinearGradient& gradient, const Matrix& dc);

/// Number of pairs a < b of positions with values[a] > values[b], by merge sort in `values` (destroyed) and `scratch` (same size).
std::int64_t count_inversions(double* values, double* scratch, std::int64_t count);

}  // namespace b2m
