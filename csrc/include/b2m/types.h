// Plain types shared by every op: no torch, no Python, no CUDA.
#pragma once

#include <cstdint>

namespace b2m {

enum class DType : int { float64, float32, bfloat16, float16 };

/// A matrix somebody else owns: element (i, j) at data[i * row_stride + j * column_stride], strides in elements, of any sign or zero.
/// 64-bit throughout: an offset may pass 2^31.
struct Matrix {
  void* data;
  DType dtype;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t row_stride;
  std::int64_t column_stride;
};

/// How two rows are scored.
///   dot           x . y
///   cosine        x . y / (|x| |y|), 0 if a norm is 0
///   correlation   cosine of the rows minus their means; a constant row counts as a zero row
///   sqeuclidean   |x - y|^2          euclidean   |x - y|          rbf   exp(-gamma |x - y|^2)
/// The first three are bilinear: rows are prepared once (centred, normalised), then a score is a dot product.
enum class Metric : int { dot, cosine, correlation, sqeuclidean, euclidean, rbf };

struct Scoring {
  Metric metric;
  double gamma;  // rbf only
};

/// What scores and gradients of float32 rows may lose where a unit for bfloat16 products is faster than float products are; PyTorch's
/// setting of the same names. Relative error of a score, of its largest terms: 2^-24, 2^-17, 2^-9.
enum class Precision : int { highest, high, medium };

/// How an op is executed.
struct Executor {
  int threads;
  Precision precision = Precision::highest;
};

constexpr bool is_bilinear(Metric metric) {
  return metric == Metric::dot || metric == Metric::cosine || metric == Metric::correlation;
}

}  // namespace b2m
