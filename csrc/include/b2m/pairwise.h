// Scores of all pairs, of listed pairs, and the best of each row.
#pragma once

#include "b2m/types.h"

namespace b2m {

/// Which pairs, and where their scores stand in a result.
///   full        out is (rows of x, rows of y): out(i, j) = score(x_i, y_j)
///   condensed   x with itself; out is (1, n(n-1)/2): the pairs i < j, row by row
enum class Layout : int { full, condensed };

/// out = scores. y null: x with itself. out may have any dtype and strides (a mapped file, say); it is written tile by tile and never
/// read. Computed in double for float64 x, else in float. NaN in a row gives NaN in that row's scores only.
/// Work 2 n m d; memory O((n + m) d).
void pairwise_forward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out,
                      const Executor& executor);

/// dx = sum_j dL/dout(i, j) dscore(i, j)/dx_i, and dy; y null: both roles of x. dx or dy null: not wanted.
void pairwise_backward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out_gradient,
                       const Matrix* dx, const Matrix* dy, const Executor& executor);

/// out[p] = score(x_i[p], x_j[p]), p < pairs. Indices must lie in [0, n) (checked by the caller). Memory O(n d).
void pair_list_forward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                       double* out, const Executor& executor);

/// dx of the same. Each thread owns a share of the columns and walks the pairs in order: deterministic without atomics.
void pair_list_backward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                        const double* out_gradient, const Matrix& dx, const Executor& executor);

/// The k best keys of every row of x, best first: largest score, or smallest for euclidean and sqeuclidean. Ties go to the lower
/// index, NaN after every number. values, indices: (n, k) row-major. y null: x with itself, each row without itself.
/// Memory O((n + m) d + n k).
void topk(const Matrix& x, const Matrix* y, Scoring scoring, std::int64_t k, double* values, std::int64_t* indices,
          const Executor& executor);

/// out[i] = score(x_i, x_i): 1 (cosine, correlation; 0 for a zero row), x_i . x_i (dot), 0 (distances), 1 (rbf).
void self_scores(const Matrix& x, Scoring scoring, double* out, const Executor& executor);

}  // namespace b2m
