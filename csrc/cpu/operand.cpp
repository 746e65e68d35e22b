#include "cpu/operand.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/preparation.h"
#include "pair/elements.h"

namespace b2m {

template <class T>
Operand<T> prepare(const Matrix& matrix, Metric metric, int threads, const double* origin, Roles roles, int parts,
                   const std::int64_t* places) {
  const Kernels<T>& level = kernels<T>();
  Operand<T> operand;
  operand.count = matrix.rows;
  operand.depth = matrix.columns;
  operand.stride = padded_stride<T>(matrix.columns, level.width);
  operand.metric = metric;
  operand.places = places;
  operand.rows = Buffer<T>(operand.count * operand.stride);
  const bool normalised = is_normalised(metric);
  if (normalised) operand.inverse_norm = Buffer<double>(operand.count);
  if (origin) operand.shifted_rows = Buffer<T>(operand.count * operand.stride);
  parallel_ranges(threads, operand.count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      T* row = operand.rows.data() + i * operand.stride;
      read_row(matrix, places ? places[i] : i, 0, operand.depth, row);
      const double inverse_norm = prepare_row(row, operand.depth, metric);
      if (normalised) operand.inverse_norm[i] = inverse_norm;
      std::fill(row + operand.depth, row + operand.stride, T(0));
      if (!origin) continue;
      T* shifted = operand.shifted_rows.data() + i * operand.stride;
      for (std::int64_t k = 0; k < operand.depth; ++k) shifted[k] = static_cast<T>(static_cast<double>(row[k]) - origin[k]);
      std::fill(shifted + operand.depth, shifted + operand.stride, T(0));
    }
  });
  if constexpr (std::is_same_v<T, float>) {
    operand.packed = pack_rows(operand.rows.data(), operand.stride, operand.count, operand.depth, parts, roles, threads);
  }
  return operand;
}

template <class T>
void pack_panels(const Operand<T>& operand, std::int64_t first, std::int64_t count, std::int64_t width, Buffer<T>& panels,
                 int threads) {
  // By depth, of which there is more than of panels: with few rows and many columns packing is most of the work.
  parallel_ranges(threads, operand.depth, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row0 = 0; row0 < count; row0 += width) {
      T* to = panels.data() + row0 * operand.depth;
      const std::int64_t rows = std::min(width, count - row0);
      for (std::int64_t row = 0; row < rows; ++row) {
        const T* from = operand.rows.data() + (first + row0 + row) * operand.stride;
        for (std::int64_t k = begin; k < end; ++k) to[k * width + row] = from[k];
      }
      for (std::int64_t row = rows; row < width; ++row) {
        for (std::int64_t k = begin; k < end; ++k) to[k * width + row] = T(0);
      }
    }
  });
}

Buffer<double> mean_row(const Matrix& matrix, int threads) {
  Buffer<double> mean(matrix.columns, 0.0);
  parallel_ranges(threads, matrix.columns, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < matrix.rows; ++i) {
      with_elements(matrix.dtype, matrix.data, [&](const auto* data) {
        for (std::int64_t k = begin; k < end; ++k) {
          mean[k] += static_cast<double>(widen(data[i * matrix.row_stride + k * matrix.column_stride]));
        }
      });
    }
    for (std::int64_t k = begin; k < end; ++k) {
      mean[k] /= static_cast<double>(matrix.rows);
      if (!std::isfinite(mean[k])) mean[k] = 0;
    }
  });
  return mean;
}

template <class T>
void finish_gradient(const Operand<T>& operand, Buffer<T>& gradient, double factor, const Matrix& to, int threads) {
  const bool normalised = is_normalised(operand.metric);
  parallel_ranges(threads, operand.count, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      T* g = gradient.data() + i * operand.stride;
      finish_row(operand.rows.data() + i * operand.stride, g, operand.depth, operand.metric,
                 normalised ? operand.inverse_norm[i] : 1, factor);
      write_row(to, operand.places ? operand.places[i] : i, 0, operand.depth, g);
    }
  });
}

template Operand<float> prepare<float>(const Matrix&, Metric, int, const double*, Roles, int, const std::int64_t*);
template Operand<double> prepare<double>(const Matrix&, Metric, int, const double*, Roles, int, const std::int64_t*);
template void pack_panels<float>(const Operand<float>&, std::int64_t, std::int64_t, std::int64_t, Buffer<float>&, int);
template void pack_panels<double>(const Operand<double>&, std::int64_t, std::int64_t, std::int64_t, Buffer<double>&, int);
template void finish_gradient<float>(const Operand<float>&, Buffer<float>&, double, const Matrix&, int);
template void finish_gradient<double>(const Operand<double>&, Buffer<double>&, double, const Matrix&, int);

}  // namespace b2m
