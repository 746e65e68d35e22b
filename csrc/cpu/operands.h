// The two operands of a pair problem, which may be one.
#pragma once

#include "cpu/dispatch.h"
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

/// The order rows and columns are taken in; null: as they come.
struct Places {
  const std::int64_t* rows = nullptr;
  const std::int64_t* columns = nullptr;
};

/// x (rows) against y (columns); y null: x against itself, prepared once. `exact`: float's precision whatever the setting is.
template <class T>
class Operands {
 public:
  Operands(const Matrix& x, const Matrix* y, Metric metric, Use use, const Executor& executor, bool exact = false,
           Places places = {}) {
    const int threads = executor.threads;
    const int parts = std::is_same_v<T, float> ? parts_of(x.dtype, metric, x.columns, executor.precision, exact) : 0;
    const bool gradient = use == Use::scores_and_gradient;
    Buffer<double> origin;
    const bool shifted = gradient && !is_bilinear(metric);
    if (shifted) origin = mean_row(y && y->rows > 0 ? *y : x, threads);
    const double* from = shifted ? origin.data() : nullptr;
    row_ = prepare<T>(x, metric, threads, from, {true, gradient}, parts, places.rows);
    if (y) column_ = prepare<T>(*y, metric, threads, from, {false, gradient}, parts, places.columns);
    same_ = y == nullptr;
  }
  /// Gives back what only the passes over the pairs needed, before results are written.
  void release_packed() {
    for (Operand<T>* operand : {&row_, &column_}) operand->packed = PackedRows();
  }
  /// Gives back the rows' side (of two distinct sides), when its gradient is done.
  void release_row() { row_ = Operand<T>(); }

  /// Rows of a tile are a multiple of this.
  std::int64_t row_block() const { return row_.packed.unit ? row_.packed.unit->row_block : kernels<T>().row_block; }
  const Operand<T>& row() const { return row_; }
  const Operand<T>& column() const { return same_ ? row_ : column_; }

 private:
  Operand<T> row_, column_;
  bool same_;
};

}  // namespace b2m
