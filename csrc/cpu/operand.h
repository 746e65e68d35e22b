// One side of a pair problem, prepared: rows read from any dtype and strides, centred and normalised as the metric asks, and packed
// for the kernels; and the way back, from the gradient of the prepared rows to the gradient of the caller's rows.
#pragma once

#include <algorithm>

#include "b2m/types.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#include "cpu/parts.h"

namespace b2m {

template <class T>
struct Operand {
  std::int64_t count = 0;   // rows
  std::int64_t depth = 0;   // values of a row
  std::int64_t stride = 0;  // of `rows`: depth padded to whole vectors, with zeros
  Metric metric = Metric::dot;
  const std::int64_t* places = nullptr;  // row i is row places[i] of the caller's; null: row i
  Buffer<T> rows;                        // (count, stride), what a score is the dot product (or the squared distance) of
  PackedRows packed;                     // where rows are multiplied in parts
  Buffer<T> shifted_rows;                // distances with an origin: rows - origin, else empty
  Buffer<double> inverse_norm;           // cosine, correlation: 0 for a zero row

  /// What gradients sum over. A distance's gradient is a difference of large sums for data far from 0: about an origin amid the data
  /// it keeps its digits. The scores themselves use the rows as they are, whose differences are exact.
  const T* gradient_rows() const { return shifted_rows.size() > 0 ? shifted_rows.data() : rows.data(); }
};

/// Values from row to row: whole vectors. Rows whose distance is a multiple of 256 bytes fall into the same few sets of the first-level
/// cache; one vector more spreads them.
template <class T>
std::int64_t padded_stride(std::int64_t depth, std::int64_t width) {
  std::int64_t stride = std::max<std::int64_t>((depth + width - 1) / width, 1) * width;
  if (stride * static_cast<std::int64_t>(sizeof(T)) % 256 == 0) stride += width;
  return stride;
}

/// origin: `depth` values for `shifted_rows`, or null. The roles decide what is packed if rows are multiplied in parts. places: the order
/// to take the rows in, kept by reference, or null.
template <class T>
Operand<T> prepare(const Matrix& matrix, Metric metric, int threads, const double* origin = nullptr, Roles roles = {},
                   int parts = 0, const std::int64_t* places = nullptr);

/// Rows [first, first + count) transposed panel by panel, (ceil(count / width), depth, width): the right side of a product of floats.
template <class T>
void pack_panels(const Operand<T>& operand, std::int64_t first, std::int64_t count, std::int64_t width, Buffer<T>& panels,
                 int threads);

/// Mean row, in double; 0 where it is not finite, so that as an origin it spoils no other row.
Buffer<double> mean_row(const Matrix& matrix, int threads);

/// Turns `gradient` (count, stride), the gradient of the prepared rows, times `factor` into the gradient of the caller's rows and
/// writes it to `to`; `gradient` is used up.
template <class T>
void finish_gradient(const Operand<T>& operand, Buffer<T>& gradient, double factor, const Matrix& to, int threads);

}  // namespace b2m
