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

/// body(i, room) for every row of x; room: for `number` rows, the thread's own. (Made here: a parallel body must not throw.)
template <class T, class Body>
void for_rows(int threads, const Matrix& x, int number, const Body& body) {
  std::vector<Buffer<T>> rooms;
  for (int thread = 0; thread < threads; ++thread) rooms.emplace_back(number * x.columns);
  parallel(threads, [&](int thread) {
    for (std::int64_t i = x.rows * thread / threads; i < x.rows * (thread + 1) / threads; ++i) {
      body(i, rooms[static_cast<std::size_t>(thread)].data());
    }
  });
}

}  // namespace

void scaled_rows(const Matrix& x, const double* center, Metric metric, double factor, const Matrix& out, int threads) {
  with_compute_type(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows<T>(threads, x, 1, [&](std::int64_t i, T* row) {
      read_prepared(x, i, center, metric, row);
      for (std::int64_t k = 0; k < x.columns; ++k) row[k] = static_cast<T>(static_cast<double>(row[k]) * factor);
      write_row(out, i, 0, x.columns, row);
    });
  });
}

double scaled_rows_backward(const Matrix& gradient, const Matrix& x, const double* center, Metric metric, double factor,
                            const Matrix& dx, int threads) {
  Buffer<double> along(x.rows);  // a row's share each, to be added in order
  with_compute_type(gradient.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows<T>(threads, x, 2, [&](std::int64_t i, T* row) {
      T* g = row + x.columns;
      const double inverse_norm = read_prepared(x, i, center, metric, row);
      read_row(gradient, i, 0, x.columns, g);
      along[i] = dot(row, g, x.columns);
      finish_row(row, g, x.columns, metric, inverse_norm, factor);
      write_row(dx, i, 0, x.columns, g);
    });
  });
  double total = 0;
  for (std::int64_t i = 0; i < x.rows; ++i) total += along[i];
  return total;
}

}  // namespace b2m
