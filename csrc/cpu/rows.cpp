#include "b2m/rows.h"

#include <vector>

#include "cpu/buffer.h"
#include "cpu/operands.h"
#include "cpu/parallel.h"
#include "cpu/preparation.h"
#include "pair/elements.h"

namespace b2m {
namespace {

/// Row i of x minus the center, prepared; returns what prepare_row does.
template <class T>
double read_prepared(const Matrix& x, std::int64_t i, const double* center, Metric metric, T* row) {
  read_row(x, i, 0, x.columns, row);
  for (std::int64_t k = 0; center && k < x.columns; ++k) row[k] = static_cast<T>(static_cast<double>(row[k]) - center[k]);
  return prepare_row(row, x.columns, metric);
}

}  // namespace

void scaled_rows(const Matrix& x, const double* center, Metric metric, double factor, const Matrix& out, int threads) {
  with_compute_type(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_ranges(threads, x.rows, [&](std::int64_t begin, std::int64_t end) {
      Buffer<T> row(x.columns);
      for (std::int64_t i = begin; i < end; ++i) {
        read_prepared(x, i, center, metric, row.data());
        for (std::int64_t k = 0; k < x.columns; ++k) row[k] = static_cast<T>(static_cast<double>(row[k]) * factor);
        write_row(out, i, 0, x.columns, row.data());
      }
    });
  });
}

double scaled_rows_backward(const Matrix& gradient, const Matrix& x, const double* center, Metric metric, double factor,
                            const Matrix& dx, int threads) {
  Buffer<double> along(x.rows);  // a row's share each, to be added in order
  with_compute_type(gradient.dtype, [&](auto zero) {
    using T = decltype(zero);
    parallel_ranges(threads, x.rows, [&](std::int64_t begin, std::int64_t end) {
      Buffer<T> row(x.columns), g(x.columns);
      for (std::int64_t i = begin; i < end; ++i) {
        const double inverse_norm = read_prepared(x, i, center, metric, row.data());
        read_row(gradient, i, 0, x.columns, g.data());
        along[i] = dot(row.data(), g.data(), x.columns);
        finish_row(row.data(), g.data(), x.columns, metric, inverse_norm, factor);
        write_row(dx, i, 0, x.columns, g.data());
      }
    });
  });
  double total = 0;
  for (std::int64_t i = 0; i < x.rows; ++i) total += along[i];
  return total;
}

}  // namespace b2m
