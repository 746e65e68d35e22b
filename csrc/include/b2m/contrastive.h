// InfoNCE and the sigmoid loss over all pairs of queries and keys, without the pairs' memory.
#pragma once

#include "b2m/types.h"

namespace b2m {

/// logits l_ij = logit_scale * score(query_i, key_j), bilinear metrics. Pair (i, j) is positive where row_label[i] == column_label[j];
/// both null: where i == j.
struct ContrastiveProblem {
  Matrix query;  // (n, d)
  Matrix key;    // (m, d), same dtype
  Metric metric;
  double logit_scale;
  const std::int32_t* row_label;     // n
  const std::int32_t* column_label;  // m
  Executor executor;
};

/// What one direction of InfoNCE needs to know of its n rows (or m columns); each pointer n doubles.
///   negative_lse   log sum exp over the negatives (-inf: none)
///   positive_lse   the same over the positives, positive_mean their mean, positive_count their number
///   logit_mean     mean over all logits
///   top1           1 if some positive is larger than every negative (a tie is a miss, and so is NaN); null: not wanted
/// loss_i = softplus(negative_lse - positive_lse) + (positive_lse - positive_mean), which keeps its relative accuracy when the loss
/// is nearly 0: the positive never enters the sum it is compared with.
struct SoftmaxStatistics {
  double* negative_lse;
  double* positive_lse;
  double* positive_mean;
  double* positive_count;
  double* logit_mean;
  double* top1;
};

/// One pass over the pairs for both directions, one exponential a pair (more in tiles with labelled positives). columns.negative_lse null: rows only.
/// Work 2 n m d, memory O((n + m) d).
void info_nce_forward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns);

/// Gradient of sum_i row_weight[i] row_loss_i + sum_j column_weight[j] column_loss_j, where a loss with label smoothing s is
/// lse - (1 - s) positive_mean - s logit_mean. column_weight null: rows only. dquery, dkey null: not wanted.
/// Returns dL/dlogit_scale. Work 6 n m d (the logits once more, and one product per side).
double info_nce_backward(const ContrastiveProblem& problem, const SoftmaxStatistics& rows, const SoftmaxStatistics& columns,
                         const double* row_weight, const double* column_weight, double label_smoothing, const Matrix* dquery,
                         const Matrix* dkey);

/// row_loss[i] = sum_j softplus(-z_ij (l_ij + logit_bias)), z = 1 for positives, else -1.
void sigmoid_forward(const ContrastiveProblem& problem, double logit_bias, double* row_loss);

struct ScalarGradients {
  double logit_scale;
  double logit_bias;
};
ScalarGradients sigmoid_backward(const ContrastiveProblem& problem, double logit_bias, const double* row_weight,
                                 const Matrix* dquery, const Matrix* dkey);

}  // namespace b2m
