// Elements of any dtype, derivatives of scores, and writing of tiles.
#pragma once

#include "cuda/tile.h"
#include "pair/elements.h"
#include "pair/metric.h"

namespace b2m {
namespace cuda {

/// Element of a matrix of any dtype and strides.
template <class T>
__device__ __forceinline__ T load_element(const Matrix& matrix, std::int64_t i, std::int64_t j) {
  const std::int64_t at = i * matrix.row_stride + j * matrix.column_stride;
  switch (matrix.dtype) {
    case DType::float64:
      return static_cast<T>(static_cast<const double*>(matrix.data)[at]);
    case DType::float32:
      return static_cast<T>(static_cast<const float*>(matrix.data)[at]);
    case DType::bfloat16:
      return static_cast<T>(widen(static_cast<const BFloat16*>(matrix.data)[at]));
    default:
      return static_cast<T>(widen(static_cast<const Float16*>(matrix.data)[at]));
  }
}

template <class T>
__device__ __forceinline__ void store_element(const Matrix& matrix, std::int64_t i, std::int64_t j, T value) {
  const std::int64_t at = i * matrix.row_stride + j * matrix.column_stride;
  switch (matrix.dtype) {
    case DType::float64:
      static_cast<double*>(matrix.data)[at] = static_cast<double>(value);
      return;
    case DType::float32:
      static_cast<float*>(matrix.data)[at] = static_cast<float>(value);
      return;
    case DType::bfloat16:
      narrow(value, static_cast<BFloat16*>(matrix.data)[at]);
      return;
    default:
      narrow(value, static_cast<Float16*>(matrix.data)[at]);
      return;
  }
}

/// Place of the pair i < j among the n (n - 1) / 2 pairs, row by row.
__host__ __device__ __forceinline__ std::int64_t condensed_index(std::int64_t i, std::int64_t j, std::int64_t n) {
  return i * (2 * n - i - 1) / 2 + (j - i - 1);
}

/// dscore/draw, raw being the dot product or the squared distance, from the score.
template <class T>
__device__ __forceinline__ T score_derivative(const Scoring& scoring, T score) {
  switch (scoring.metric) {
    case Metric::euclidean:
      return pair::euclidean_derivative<T>(score);
    case Metric::rbf:
      return pair::rbf_derivative<T>(score, static_cast<T>(scoring.gamma));
    default:
      return T(1);
  }
}

/// Two neighbours of a row, written at once.
template <class Element>
struct alignas(2 * sizeof(Element)) Neighbours {
  Element low, high;
};
template <class T>
__device__ __forceinline__ void store_neighbours(BFloat16* to, T low, T high) {
  *reinterpret_cast<std::uint32_t*>(to) = device::pack_bfloat16(static_cast<float>(low), static_cast<float>(high));
}
template <class T>
__device__ __forceinline__ void store_neighbours(float* to, T low, T high) {
  *reinterpret_cast<Neighbours<float>*>(to) = {static_cast<float>(low), static_cast<float>(high)};
}
template <class T>
__device__ __forceinline__ void store_neighbours(double* to, T low, T high) {
  *reinterpret_cast<Neighbours<double>*>(to) = {static_cast<double>(low), static_cast<double>(high)};
}

/// Writes a whole tile, two columns at a time: `to` is aligned for that, and `stride` even.
template <class Element, class T>
__device__ __forceinline__ void write_tile(Element* to, std::int64_t stride, const T (&values)[kValues]) {
  const Place place;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    Element* const row = to + place.row(h) * stride + place.column(0, 0);
#pragma unroll
    for (int j = 0; j < 16; ++j) store_neighbours(row + 8 * j, values[4 * j + 2 * h], values[4 * j + 2 * h + 1]);
  }
}

/// Writes a tile's gradient weights: of double as double, of float as float or bfloat16.
template <class T>
__device__ __forceinline__ void write_weights(const Weights& weights, const Tile& tile, const T (&values)[kValues]) {
  const std::int64_t first = static_cast<std::int64_t>(tile.row_tile) * kTile * weights.stride + tile.column_tile * kTile;
  if (sizeof(T) == 4 && weights.dtype == DType::bfloat16) {
    write_tile(static_cast<BFloat16*>(weights.data) + first, weights.stride, values);
  } else {
    write_tile(static_cast<T*>(weights.data) + first, weights.stride, values);
  }
}

}  // namespace cuda
}  // namespace b2m
