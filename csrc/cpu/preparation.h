// One row, prepared as a bilinear metric asks, and the way back from the gradient of the prepared row.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "b2m/types.h"
#include "cpu/sums.h"

namespace b2m {

constexpr bool is_normalised(Metric metric) { return metric == Metric::cosine || metric == Metric::correlation; }

/// Norm in double without overflow or underflow of the squares; NaN if any value is NaN.
template <class T>
double norm(const T* row, std::int64_t depth) {
  double largest = 0, sum = dot(row, row, depth);
  if (sum > 1e-200 && sum < 1e200) return std::sqrt(sum);
  for (std::int64_t k = 0; k < depth; ++k) {
    const double value = std::fabs(static_cast<double>(row[k]));
    largest = value > largest ? value : largest;
  }
  if (largest == 0 || std::isnan(sum) || std::isinf(largest)) return std::isnan(sum) ? sum : largest;
  sum = 0;
  for (std::int64_t k = 0; k < depth; ++k) {
    const double value = static_cast<double>(row[k]) / largest;
    sum += value * value;
  }
  return largest * std::sqrt(sum);
}

/// Subtracts the row's mean. A row that is constant up to rounding becomes exactly zero.
template <class T>
void subtract_mean(T* row, std::int64_t depth) {
  double sum = 0;
  for (std::int64_t k = 0; k < depth; ++k) sum += static_cast<double>(row[k]);
  const double mean = sum / static_cast<double>(depth);
  for (std::int64_t k = 0; k < depth; ++k) row[k] = static_cast<T>(static_cast<double>(row[k]) - mean);
  const double rounding = 8 * std::numeric_limits<T>::epsilon() * std::sqrt(static_cast<double>(depth)) * std::fabs(mean);
  if (norm(row, depth) <= rounding) std::fill(row, row + depth, T(0));
}

/// Divides by the norm; a zero row stays zero. Returns 1 / norm, 0 for a zero row.
template <class T>
double normalise(T* row, std::int64_t depth) {
  const double length = norm(row, depth);
  if (length == 0) return 0;
  for (std::int64_t k = 0; k < depth; ++k) row[k] = static_cast<T>(static_cast<double>(row[k]) / length);
  return 1 / length;
}

/// In place; returns 1 / norm (0 for a zero row) where the metric normalises.
template <class T>
double prepare_row(T* row, std::int64_t depth, Metric metric) {
  if (metric == Metric::correlation) subtract_mean(row, depth);
  return is_normalised(metric) ? normalise(row, depth) : 1;
}

/// Turns g, the gradient of the prepared row z, times `factor` into that of the row itself. cosine: (g - z (z . g)) / |x|;
/// correlation: that minus its mean; else g itself.
template <class T>
void finish_row(const T* z, T* g, std::int64_t depth, Metric metric, double inverse_norm, double factor) {
  if (is_normalised(metric)) {
    const double along = dot(z, g, depth), size = inverse_norm * factor;
    for (std::int64_t k = 0; k < depth; ++k) {
      g[k] = static_cast<T>((static_cast<double>(g[k]) - static_cast<double>(z[k]) * along) * size);
    }
    if (metric == Metric::correlation) {
      double sum = 0;
      for (std::int64_t k = 0; k < depth; ++k) sum += static_cast<double>(g[k]);
      const T mean = static_cast<T>(sum / static_cast<double>(depth));
      for (std::int64_t k = 0; k < depth; ++k) g[k] -= mean;
    }
  } else if (factor != 1) {
    for (std::int64_t k = 0; k < depth; ++k) g[k] = static_cast<T>(static_cast<double>(g[k]) * factor);
  }
}

}  // namespace b2m
