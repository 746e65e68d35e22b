// The two operands of a pair problem, which may be one.
#pragma once

#include "cpu/operand.h"

namespace b2m {

/// Runs body(T()) with the type a problem is computed in: double for float64, else float.
template <class Body>
void with_compute_type(DType dtype, const Body& body) {
  if (dtype == DType::float64) {
    body(double());
  } else {
    body(float());
  }
}

enum class Use : int { scores, scores_and_gradient };

/// x (rows) against y (columns); y null: x against itself, prepared once.
template <class T>
class Operands {
 public:
  Operands(const Matrix& x, const Matrix* y, Metric metric, Use use, int threads) {
    Buffer<double> origin;
    const bool shifted = use == Use::scores_and_gradient && !is_bilinear(metric);
    if (shifted) origin = mean_row(y && y->rows > 0 ? *y : x, threads);
    const double* from = shifted ? origin.data() : nullptr;
    row_ = prepare<T>(x, metric, from, y ? Packing::rows : Packing::rows_and_panels, threads);
    if (y) column_ = prepare<T>(*y, metric, from, Packing::rows_and_panels, threads);
    same_ = y == nullptr;
  }
  /// Gives back what only the scores needed, before results are written.
  void release_panels() {
    row_.panels = Buffer<T>();
    column_.panels = Buffer<T>();
  }
  /// Gives back the rows' side (of two distinct sides), when its gradient is done.
  void release_row() { row_ = Operand<T>(); }

  const Operand<T>& row() const { return row_; }
  const Operand<T>& column() const { return same_ ? row_ : column_; }

 private:
  Operand<T> row_, column_;
  bool same_;
};

}  // namespace b2m
