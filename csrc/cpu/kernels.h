// The contract between the tile engine and an instruction level: one table of plain functions per level and scalar type.
//
// The engine (compiled for the baseline) owns loops, threads and memory; a level owns what happens inside one tile. A new level
// is one file that includes kernels_impl.h under its own compiler flags and exports one table.
#pragma once

#include <cstdint>

namespace b2m {

/// A block of pair scores: rows x columns values, `stride` values from row to row, of the pairs (row0 + i, column0 + j).
/// The storage of every row reaches to a whole number of vectors; kernels may write there but never let it count.
template <class T>
struct Tile {
  T* data;
  std::int64_t stride;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t row0;
  std::int64_t column0;
};

/// c[i][j] (+)= sum_k a[i * a_row + k * a_depth] * b[panel(j) * b_panel + k * b_depth + j mod panel]
template <class T>
struct Product {
  std::int64_t rows;
  std::int64_t columns;  // a whole number of vectors
  std::int64_t depth;
  const T* a;
  std::int64_t a_row;
  std::int64_t a_depth;
  const T* b;
  std::int64_t b_depth;
  std::int64_t b_panel;
  T* c;
  std::int64_t c_row;
  bool accumulate;
};

enum class DistanceKernel : int { sqeuclidean, euclidean, rbf };

/// Running log-sum-exp of one side: sum * exp(max) is the sum so far. `top` is the largest logit seen.
template <class T>
struct LogSumExp {
  T* max;
  double* sum;
};

/// What the gradient of InfoNCE needs of one direction. Entries of rows without positives have weight 0.
template <class T>
struct SoftmaxSide {
  const T* weight;          // gradient of the direction's loss of this row (or column)
  const T* lse;             // log-sum-exp over all its logits
  const T* positive_lse;    // over its positives
  const T* negative_share;  // exp(negative_lse - lse)
  const T* inverse_count;   // 1 / number of positives
};

/// Sums over the pairs of a tile, of c' = c - c_shift and t' = t - t_shift with pair weight w.
struct Moments {
  double w = 0, wc = 0, wt = 0, wcc = 0, wtt = 0, wct = 0;
};

/// Shift and coefficients of the linear gradient weight w (constant + of_c c' + of_t t') + row[i] + row[j].
template <class T>
struct LinearWeight {
  T c_shift, t_shift, constant, of_c, of_t;
  const T* per_row;  // by row index of the whole problem; null when all zero
};

template <class T>
struct Kernels {
  int width;         // lanes of a vector
  int row_block;     // rows a product keeps in registers
  int column_panel;  // columns of a packed panel

  void (*product)(const Product<T>&);
  void (*squared_distance)(const Product<T>&);  // c = sum_k (a - b)^2, same addressing, never accumulates into old c

  void (*distance_value)(Tile<T> q, DistanceKernel, T gamma);                      // in place
  void (*distance_chain)(Tile<T> weight, Tile<T> value, DistanceKernel, T gamma);  // weight *= d value / d q
  void (*scale_shift)(Tile<T> l, T scale, T shift);                                // l = l * scale + shift

  /// Adds exp of every logit to its row and, if column.max is not null, to its column; arrays start at the tile's first row and
  /// column. `exact`: a shift of its own per row and column always; else one shift per tile where its spread allows.
  void (*add_exp)(Tile<T> l, LogSumExp<T> row, LogSumExp<T> column, T* scratch, bool exact);
  /// row_top[i] = max(row_top[i], max_j l_ij), and columns; NaN never wins.
  void (*raise_top)(Tile<T> l, T* row_top, T* column_top);
  /// Moves logits whose labels agree from l to positive (which gets -inf elsewhere, l gets -inf there), and adds them to
  /// count and sum of their row and column. Returns whether there were any.
  bool (*split_positives)(Tile<T> l, Tile<T> positive, const std::int32_t* row_label, const std::int32_t* column_label,
                          T* row_count, double* row_sum, T* column_count, double* column_sum);
  void (*negate_positives)(Tile<T> l, const std::int32_t* row_label, const std::int32_t* column_label);

  /// l becomes dL/dl as if every pair were negative. Arrays start at the tile's first row and column; column.weight may be null.
  void (*softmax_weight)(Tile<T> l, SoftmaxSide<T> row, SoftmaxSide<T> column, T* scratch);
  /// weight[i][j] becomes the positive pair's gradient where the labels agree (l: the logits).
  void (*positive_weight)(Tile<T> weight, Tile<T> l, const std::int32_t* row_label, const std::int32_t* column_label,
                          SoftmaxSide<T> row, SoftmaxSide<T> column);
  /// weight[i][j] += row[i] + column[j]; column may be null.
  void (*add_outer)(Tile<T> weight, const T* row, const T* column);

  void (*sum_softplus)(Tile<T> l, double* row_sum);
  void (*sigmoid_weight)(Tile<T> l, const T* row_weight);  // l becomes row_weight * sigmoid(l)
  /// row[i] += sum_j values, column[j] += sum_i values; either may be null.
  void (*add_sums)(Tile<T> values, double* row, double* column);

  /// The pairs counted are those with row0 + i < column0 + j. w may have null data. Row sums of c', t' (arrays by row and by
  /// column of the tile) are added if c_row is not null.
  void (*add_moments)(Tile<T> c, Tile<T> t, Tile<T> w, T c_shift, T t_shift, Moments& total, double* c_row, double* t_row,
                      double* c_column, double* t_column);
  void (*linear_weight)(Tile<T> c, Tile<T> t, Tile<T> w, const LinearWeight<T>&);  // c becomes dL/dc, 0 where i >= j
  /// Adds w and w (F(c) - F(t))^2, F the identity or Fisher's z. The weigh_ forms also turn c into the gradient of the latter.
  void (*add_squared)(Tile<T> c, Tile<T> t, Tile<T> w, T unused, double& weight, double& total);
  void (*add_atanh)(Tile<T> c, Tile<T> t, Tile<T> w, T epsilon, double& weight, double& total);
  void (*weigh_squared)(Tile<T> c, Tile<T> t, Tile<T> w, T unused, double& weight, double& total);
  void (*weigh_atanh)(Tile<T> c, Tile<T> t, Tile<T> w, T epsilon, double& weight, double& total);

  /// Largest value of each run of kMaximaRun columns of one row.
  void (*run_maxima)(const T* row, std::int64_t columns, T* maxima);
};

constexpr std::int64_t kMaximaRun = 64;

// ------------------------------------------------------------------------------------------------- products of bfloat16 parts
//
// A float is the sum of up to three bfloat16 parts, each what the ones before it leave of the value, rounded. A product of two
// matrices is then the sum of the products of their parts a and b with a + b < parts, on units that multiply bfloat16 pairs and add
// up in float. Such units take 32-bit words of two neighbours along the dimension summed over, the first in the lower half.

constexpr int kMostParts = 3;
constexpr std::int64_t kWordBlock = 16;  // words of a vector or of a tile register's row, and rows of a tile register

constexpr int products_of(int parts) { return parts * (parts + 1) / 2; }

/// Part `part` of a packed matrix begins at word part * part_stride; word (u, v) of it is at
/// v / kWordBlock * block + u * row + v % kWordBlock. Both directions reach to whole blocks, filled up with zeros.
template <class Word>
struct WordLayout {
  Word* data;
  std::int64_t row;
  std::int64_t block;
  std::int64_t part;

  /// The matrix that begins at word (u, v) of this one, v a whole number of blocks.
  WordLayout from(std::int64_t u, std::int64_t v) const { return {data + u * row + v / kWordBlock * block, row, block, part}; }
};

/// c[i][j] (+)= sum over parts, words k and both halves of left(i, k) right(k, j). Rows are computed in whole blocks: c must reach there.
struct PartsProduct {
  int parts;
  std::int64_t rows;
  std::int64_t columns;  // a whole number of blocks
  std::int64_t depth;    // in words
  WordLayout<const std::uint32_t> left;
  WordLayout<const std::uint32_t> right;
  float* c;
  std::int64_t c_row;
  bool accumulate;
};

/// rows x columns floats to be packed.
struct PartsSource {
  int parts;
  const float* data;
  std::int64_t row;
  std::int64_t rows;
  std::int64_t columns;
};
using PackParts = void (*)(const PartsSource&, WordLayout<std::uint32_t>);

/// What a unit takes, against float products of the same level, within a step that has four products a pair.
struct PartsCost {
  double speed;              // products of parts in the time of one product of floats
  double packing;            // time to pack a gradient weight as one part, in values of depth of a float product
  std::int64_t depth_block;  // depth is computed in multiples of this
};

struct PartsUnit {
  PartsCost cost;
  std::int64_t row_block;  // rows of a tile are a multiple of this
  void (*product)(const PartsProduct&);
  // Packings of a matrix S for the products S B, S' B, A S and A S'. Words hold two neighbours of a row of S in the first and the
  // last, of a column in the others; word (u, v) is
  //   S B: (row, column / 2)   S' B: (column, row / 2)   A S: (row / 2, column)   A S': (column / 2, row)
  PackParts left, left_transposed, right, right_transposed;
};

/// A compiled instruction level.
struct InstructionLevel {
  const char* name;
  const Kernels<float>* single;
  const Kernels<double>* wide;
  const PartsUnit* parts;  // null: float products only
};

extern const InstructionLevel kGenericLevel;
extern const InstructionLevel kAvx2Level;
extern const InstructionLevel kAvx512Level;
extern const InstructionLevel kAvx512Bf16Level;
extern const InstructionLevel kAmxLevel;
extern const InstructionLevel kAmxEmulatedLevel;  // tests only: AMX's tile instructions in plain C++

extern const Kernels<float> kAvx512Single;  // for the levels above, which add products of parts and nothing else
extern const Kernels<double> kAvx512Wide;

}  // namespace b2m
