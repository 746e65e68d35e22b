// Writing scores, and turning gradients of scores into weights.
#pragma once

#include "cuda/scores.h"

namespace b2m {
namespace cuda {

/// Which entry of a result a pair has.
struct PairPlaces {
  bool condensed;
  std::int64_t count;  // items, where condensed

  __device__ __forceinline__ bool has(std::int64_t i, std::int64_t j) const { return !condensed || i < j; }
  __device__ __forceinline__ std::int64_t row(std::int64_t i) const { return condensed ? 0 : i; }
  __device__ __forceinline__ std::int64_t column(std::int64_t i, std::int64_t j) const {
    return condensed ? condensed_index(i, j, count) : j;
  }
};

template <class T>
struct WriteScores {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 2;
  struct Parameters {
    PairPlaces places;
    Matrix out;
    bool plain;  // row-major, of T or bfloat16, and aligned for two columns at a time
  };
  struct Shared {};
  static __device__ void apply(const Grid&, const Parameters& to, const Tile& tile, Shared&, T (&c)[kValues]) {
    const Place place;
    if (to.plain && tile.whole()) {
      const std::int64_t first = tile.row0 * to.out.row_stride + tile.column0;
      if (to.out.dtype == DType::bfloat16) {
        write_tile(static_cast<BFloat16*>(to.out.data) + first, to.out.row_stride, c);
      } else {
        write_tile(static_cast<T*>(to.out.data) + first, to.out.row_stride, c);
      }
      return;
    }
    for_values(place, c, [&](int h, int column, T& value) {
      const std::int64_t i = tile.row0 + place.row(h), j = tile.column0 + column;
      if (place.row(h) >= tile.rows || column >= tile.columns || !to.places.has(i, j)) return;
      store_element(to.out, to.places.row(i), to.places.column(i, j), value);
    });
  }
};

template <class T>
struct PairwiseWeights {
  static constexpr int kSides = 1;
  static constexpr int kBlocks = 1;
  struct Parameters {
    Scoring scoring;
    PairPlaces places;
    Matrix out_gradient;
    Weights weights;
  };
  struct Shared {};
  static __device__ void apply(const Grid&, const Parameters& from, const Tile& tile, Shared&, T (&c)[kValues]) {
    const Place place;
    for_values(place, c, [&](int h, int column, T& value) {
      const std::int64_t i = tile.row0 + place.row(h), j = tile.column0 + column;
      const bool exists = place.row(h) < tile.rows && column < tile.columns && from.places.has(i, j);
      const T slope = score_derivative(from.scoring, value);
      value = exists ? slope * load_element<T>(from.out_gradient, from.places.row(i), from.places.column(i, j)) : T(0);
    });
    write_weights(from.weights, tile, c);
  }
};

}  // namespace cuda
}  // namespace b2m
