// The CUDA engine: scores of all pairs by tiles of 128 x 128, and what is done with a tile while it is in registers.
//
// Every pointer is device memory that the caller allocated (workspaces too: nothing is allocated, nothing waits, so every call can be
// captured in a CUDA graph), every scalar that a computation made is read from device memory, every function throws std::runtime_error
// with the name of what failed. Same input, same bits: tiles write their sums to places of their own, which are then added in a fixed order.
#pragma once

#include "b2m/rsa.h"
#include "b2m/types.h"

namespace b2m {
namespace cuda {

/// Rows and columns of a tile. Bands of rows begin at a multiple of it, workspaces are padded to it.
constexpr int kTile = 128;
/// bfloat16 rows are padded with zeros to a multiple of it.
constexpr int kDepthStep = 64;

/// Where a computation runs. handle: a cudaStream_t.
struct Stream {
  int device;
  void* handle;
};

/// What scores are computed in.
///   bfloat16   tensor cores, float accumulation; a row may be a sum of up to three bfloat16 parts (float32 to all its digits)
///   float32, float64   scalar multiplications or, for distances, squared differences
enum class Arithmetic : int { bfloat16, float32, float64 };

/// Rows ready to be multiplied: element k of part p of row i at data[(i * parts + p) * depth + k], 16-byte aligned; parts is 1 but for
/// bfloat16, whose depth is a multiple of kDepthStep.
struct Rows {
  void* data;
  Arithmetic arithmetic;
  std::int64_t count;
  std::int64_t depth;
  int parts;
};

/// Which products of parts are summed, small ones first: 1 (x1 y1), 3 (also x1 y2, x2 y1), 6 (also x2 y2, x1 y3, x3 y1). Relative error of
/// a score about 2^-9, 2^-17, 2^-24.
using Products = int;

/// Centred and normalised as the metric asks, computed in double, rounded to the arithmetic and split in parts. inverse_norm (count, or
/// null): 1 / norm, 0 for a zero row. center (columns, or null) is subtracted first. Padding is written too.
void prepare_rows(const Matrix& x, Metric metric, const double* center, const Rows& rows, double* inverse_norm, Stream stream);

/// From the gradient of prepared rows to that of x, times *factor (null: 1). x, center and inverse_norm as for prepare_rows.
void finish_rows(const Matrix& gradient, const Matrix& x, Metric metric, const double* center, const double* inverse_norm,
                 const double* factor, const Matrix& dx, Stream stream);

/// Rows [begin, end) of the problem against all columns or, where x meets itself and pairs i < j count, against columns from `begin` on.
/// begin is a multiple of kTile.
struct Band {
  std::int64_t begin;
  std::int64_t end;
};

/// Where a band's gradient weights go: entry (i, j) at data[(i - band.begin) * stride + j], or j - band.begin where only pairs i < j
/// count; dtype float64 for float64 rows, else bfloat16 or float32. stride is a multiple of kTile and the rows are padded to one: tiles are written whole, and
/// what lies outside the band is not to be read. Tiles wholly below the diagonal are not written.
struct Weights {
  void* data;
  DType dtype;
  std::int64_t stride;
};

// -------------------------------------------------------------------------------------------------------------- contrastive

/// As b2m::ContrastiveProblem, with prepared rows and the scale on the device. Where there are no labels pair (i, j) is positive if
/// i == column_offset + j: keys may be a block of them.
struct Contrastive {
  Rows query;
  Rows key;
  Products products;
  const double* logit_scale;
  const std::int32_t* row_label;
  const std::int32_t* column_label;
  std::int64_t column_offset;
};

/// What is known of each row (or column) of the logits so far: six arrays of count doubles, one after the other:
/// negative_lse, positive_lse, positive_total, positive_count, negative_max, positive_max. To begin with -inf, -inf, 0, 0, -inf, -inf.
/// negative_max is kept up only where labels are given or `maxima` is asked for.
constexpr int kSoftmaxQuantities = 6;

/// Workspace of softmax_statistics, in elements of float (double for float64 rows): kSoftmaxQuantities * tiles across * padded rows.
/// row_partials: ceil(m / kTile) tiles of ceil((end - begin) / kTile) * kTile rows; column_partials: the same with the roles changed.
/// column_state null: rows only. Merges the logits of a band into the states.
void softmax_statistics(const Contrastive& problem, Band band, bool maxima, double* row_state, double* column_state,
                        void* row_partials, void* column_partials, Stream stream);

/// One side of the softmax gradient: six arrays of count elements (float, or double for float64 rows), one after the other:
/// weight, lse (over positives and negatives), positive_lse, negative_share = 1 / (1 + exp(positive_lse - negative_lse)),
/// inverse_count = (1 - smoothing) / positive_count, smoothing = -weight * label_smoothing / others.
constexpr int kSoftmaxSideArrays = 6;

/// dL/dlogit of a band's pairs. column_side null: rows only. scale_partials: one double per tile of the band, row-major (band tiles,
/// ceil(m / kTile)): sum over the tile of dL/dlogit * score.
void softmax_weights(const Contrastive& problem, Band band, const void* row_side, const void* column_side,
                     const Weights& weights, double* scale_partials, Stream stream);

/// row_loss[i] = sum_j softplus(-z_ij (l_ij + *logit_bias)); row_partials: ceil(m / kTile) * padded rows doubles.
void sigmoid_losses(const Contrastive& problem, const double* logit_bias, Band band, double* row_loss, double* row_partials,
                    Stream stream);

/// dL/dlogit of a band's pairs for L = sum_i row_weight[i] row_loss[i]; row_weight: float, or double for float64 rows. partials: two arrays
/// (one after the other) of a double per tile: sum of dL/dlogit * score, and of dL/dlogit.
void sigmoid_weights(const Contrastive& problem, const double* logit_bias, Band band, const void* row_weight,
                     const Weights& weights, double* partials, Stream stream);

// -------------------------------------------------------------------------------------------------------------- scores

struct Scores {
  Rows x;
  Rows y;  // x itself: the same rows
  Products products;
  Scoring scoring;
};

/// Scores of a band, written to out: full (n, m), or condensed (1, n(n-1)/2). Any dtype and strides. rows of `out` are those of the problem.
void pairwise_scores(const Scores& scores, bool condensed, Band band, const Matrix& out, Stream stream);

/// dL/draw of a band, raw being the dot product or the squared distance, from dL/dscore (full or condensed, of any dtype and strides).
/// Pairs that do not count (i >= j, where condensed) get 0.
void pairwise_weights(const Scores& scores, bool condensed, Band band, const Matrix& out_gradient, const Weights& weights,
                      Stream stream);

// -------------------------------------------------------------------------------------------------------------- comparisons

/// One side of a comparison: prepared patterns or, where stored is not null, scores somebody stored: those of the band, row-major,
/// (i, j) at stored[(i - band.begin) * stride + (j - band.begin)], float (double for float64 rows).
struct Side {
  Rows rows;
  Products products;
  Scoring scoring;
  const void* stored;
  std::int64_t stride;
};

/// Pairs i < j of `count` items. Both sides' patterns are of the same arithmetic (of a stored side, rows.arithmetic is that of the other).
/// weights (stored null: every pair counts 1) has stored and stride alone.
struct PairProblem {
  std::int64_t count;
  Side c;
  Side t;
  Side weights;
};

/// partials: two arrays of a double per tile of the band, (band tiles, tiles from the band's first column on); tiles below the diagonal
/// are not written: sum of w and of w (F(c) - F(t))^2.
void squared_difference(const PairProblem& problem, Band band, Transform transform, double epsilon, double* partials,
                        Stream stream);

/// The same, and dL/draw of c for L = sum w (F(c) - F(t))^2; raw as for pairwise_weights.
void difference_weights(const PairProblem& problem, Band band, Transform transform, double epsilon, const Weights& weights,
                        double* partials, Stream stream);

/// partials: six such arrays: w, w c', w t', w c'c', w t't', w c't', with c' = c - shifts[0], t' = t - shifts[1] (shifts on the device).
/// c_row, t_row (count doubles each, added to; or null): sums of c'_ij, t'_ij over j != i. row_workspace: 4 * tiles across * padded rows
/// doubles, tiles across and rows both counted from the band's first column on (or null).
void pair_moments(const PairProblem& problem, Band band, const double* shifts, double* partials, double* c_row, double* t_row,
                  double* row_workspace, Stream stream);

/// dL/draw of c for dL/dc_ij = w_ij (constant + of_c c'_ij + of_t t'_ij) + per_item[i] + per_item[j], i < j.
/// coefficients (device): c_shift, t_shift, constant, of_c, of_t. per_item null: none. raw as for pairwise_weights.
void linear_weights(const PairProblem& problem, Band band, const double* coefficients, const double* per_item,
                    const Weights& weights, Stream stream);

// -------------------------------------------------------------------------------------------------------------- the device

/// Whether this build has kernels, and for which architectures ("80", "90a", ...).
const char* architectures();

/// Which main loop multiplies bfloat16 rows on this device: "hopper" (TMA, wgmma) or "ampere" (cp.async, mma.sync). B2M_CUDA_LOOP overrides
/// it; a loop the device does not have is an error.
const char* main_loop(int device);

}  // namespace cuda
}  // namespace b2m
