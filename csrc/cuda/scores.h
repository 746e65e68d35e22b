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

/// A row-major block of memory that tiles are written to, by two columns at a time where its alignment allows.
struct Block {
  void* data;
  DType dtype;
  std::int64_t stride;

  /// The tile's first element is number `first`; what does not exist is left alone.
  template <class T>
  __device__ __forceinline__ void write(const Tile& tile, std::int64_t first, T (&values)[kValues]) const {
    const Place place;
    const bool pairs = stride % 2 == 0 && first % 2 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (place.row(h) >= tile.rows) continue;
      const std::int64_t row = first + place.row(h) * stride;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        const int column = place.column(j, 0);
        const T low = values[4 * j + 2 * h], high = values[4 * j + 2 * h + 1];
        if (pairs && column + 1 < tile.columns) {
          if (dtype == DType::bfloat16) {
            const std::uint32_t packed = device::pack_bfloat16(static_cast<float>(low), static_cast<float>(high));
            *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(data) + row + column) = packed;
            continue;
          }
          if (dtype == DType::float32) {
            *reinterpret_cast<float2*>(static_cast<float*>(data) + row + column) =
                make_float2(static_cast<float>(low), static_cast<float>(high));
            continue;
          }
        }
        const Matrix out{data, dtype, 0, 0, 0, 1};
        if (column < tile.columns) store_element(out, 0, row + column, low);
        if (column + 1 < tile.columns) store_element(out, 0, row + column + 1, high);
      }
    }
  }
};

/// Writes a tile's gradient weights.
template <class T>
__device__ __forceinline__ void write_weights(const Weights& weights, const Tile& tile, T (&values)[kValues]) {
  const std::int64_t first = static_cast<std::int64_t>(tile.row_tile) * kTile * weights.stride + tile.column_tile * kTile;
  Block{weights.data, weights.dtype, weights.stride}.write(tile, first, values);
}

}  // namespace cuda
}  // namespace b2m
