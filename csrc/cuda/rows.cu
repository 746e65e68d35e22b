// Preparing rows for the main loops, and taking gradients of prepared rows back to the rows themselves. One warp a row, in double.
#include "b2m/cuda.h"
#include "cuda/launch.h"
#include "cuda/scores.h"

namespace b2m {
namespace cuda {
namespace {

struct RowSource {
  Matrix x;
  const double* center;
  bool subtract_mean;
  double epsilon;  // of the computing type

  __device__ __forceinline__ double value(std::int64_t i, std::int64_t k) const {
    const double raw = load_element<double>(x, i, k);
    return center ? raw - center[k] : raw;
  }
  __device__ __forceinline__ double mean(std::int64_t i, int lane) const {
    double sum = 0;
    for (std::int64_t k = lane; k < x.columns; k += 32) sum += value(i, k);
    return over_warp(sum, Sum()) / static_cast<double>(x.columns);
  }
  /// Euclidean norm of the row minus `mean`, without overflow or underflow of the squares; NaN if any value is.
  __device__ __forceinline__ double norm(std::int64_t i, double mean, int lane) const {
    double largest = 0;
    for (std::int64_t k = lane; k < x.columns; k += 32) largest = larger(largest, fabs(value(i, k) - mean));
    largest = over_warp(largest, Maximum());
    if (!(largest > 0)) largest = 1;
    const double inverse =
        1 / largest < pair::MathConstants<double>::infinity ? 1 / largest : 1;  // of a denormal: its square is 0 anyway
    double sum = 0;
    for (std::int64_t k = lane; k < x.columns; k += 32) {
      const double scaled = (value(i, k) - mean) * inverse;
      sum += scaled * scaled;
    }
    return sqrt(over_warp(sum, Sum())) / inverse;
  }
};

RowSource source_of(const Matrix& x, Metric metric, const double* center, bool is_double) {
  return {x, center, metric == Metric::correlation, is_double ? 0x1p-52 : 0x1p-23};
}

bool is_normalised(Metric metric) { return metric == Metric::cosine || metric == Metric::correlation; }

/// Writes a row: `parts` bfloat16 addends, each the rounding of what the ones before it left; or the value itself.
__device__ __forceinline__ void write_prepared(const Rows& rows, std::int64_t i, std::int64_t k, double value) {
  const std::int64_t first = i * rows.parts * rows.depth + k;
  if (rows.arithmetic == Arithmetic::float64) {
    static_cast<double*>(rows.data)[first] = value;
  } else if (rows.arithmetic == Arithmetic::float32) {
    static_cast<float*>(rows.data)[first] = static_cast<float>(value);
  } else {
    double rest = value;
    for (int part = 0; part < rows.parts; ++part) {
      BFloat16 rounded;
      narrow(rest, rounded);
      static_cast<BFloat16*>(rows.data)[first + part * rows.depth] = rounded;
      // Infinity and NaN are said once: inf - inf would spoil the other parts.
      const double kept = static_cast<double>(widen(rounded));
      rest = kept - kept == 0 ? rest - kept : 0.0;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const RowSource source, bool normalised, const Rows rows, double* inverse_norm) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (i >= rows.count) return;
  const double mean = source.subtract_mean ? source.mean(i, lane) : 0.0;
  double inverse = 1;
  if (normalised) {
    const double norm = source.norm(i, mean, lane);
    // A row that is constant up to rounding is a zero row.
    const double rounding =
        source.subtract_mean ? 8 * source.epsilon * sqrt(static_cast<double>(source.x.columns)) * fabs(mean) : 0.0;
    inverse = norm <= rounding ? 0.0 : 1 / norm;
    if (inverse_norm && lane == 0) inverse_norm[i] = inverse;
  }
  for (std::int64_t k = lane; k < rows.depth; k += 32) {
    const bool exists = k < source.x.columns && inverse != 0;
    write_prepared(rows, i, k, exists ? (source.value(i, k) - mean) * inverse : 0.0);
  }
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const Matrix gradient, const RowSource source, bool normalised,
                                                          const double* inverse_norm, const double* factor, const Matrix dx) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (i >= dx.rows) return;
  const double scale = factor ? *factor : 1.0;
  if (!normalised) {
    for (std::int64_t k = lane; k < dx.columns; k += 32) store_element(dx, i, k, load_element<double>(gradient, i, k) * scale);
    return;
  }
  // z = (x - mean) inverse; dx = (g - z (z . g)) inverse, minus its mean where x's was subtracted.
  const double mean = source.subtract_mean ? source.mean(i, lane) : 0.0;
  const double inverse = inverse_norm[i];
  double along = 0, total = 0;
  for (std::int64_t k = lane; k < dx.columns; k += 32) {
    const double g = load_element<double>(gradient, i, k);
    along += (source.value(i, k) - mean) * inverse * g;
    total += g;
  }
  along = over_warp(along, Sum());
  // The mean of z is 0 there, so that of dx is that of g.
  const double shift = source.subtract_mean ? over_warp(total, Sum()) / static_cast<double>(dx.columns) : 0.0;
  for (std::int64_t k = lane; k < dx.columns; k += 32) {
    const double z = (source.value(i, k) - mean) * inverse;
    const double value = (load_element<double>(gradient, i, k) - shift - z * along) * inverse * scale;
    store_element(dx, i, k, inverse == 0 ? 0.0 : value);
  }
}

std::int64_t blocks_for(std::int64_t rows) { return (rows + kWarps - 1) / kWarps; }

}  // namespace

void prepare_rows(const Matrix& x, Metric metric, const double* center, const Rows& rows, double* inverse_norm, Stream stream) {
  const DeviceScope scope(stream.device);
  launch("prepare_rows", prepare_kernel, blocks_for(rows.count), kThreads, 0, stream,
         source_of(x, metric, center, rows.arithmetic == Arithmetic::float64), is_normalised(metric), rows, inverse_norm);
}

void finish_rows(const Matrix& gradient, const Matrix& x, Metric metric, const double* center, const double* inverse_norm,
                 const double* factor, const Matrix& dx, Stream stream) {
  const DeviceScope scope(stream.device);
  launch("finish_rows", finish_kernel, blocks_for(dx.rows), kThreads, 0, stream, gradient,
         source_of(x, metric, center, x.dtype == DType::float64), is_normalised(metric), inverse_norm, factor, dx);
}

}  // namespace cuda
}  // namespace b2m
