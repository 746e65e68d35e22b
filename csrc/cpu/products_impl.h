// The two arithmetic kernels of a level: matrix product and squared distances of a block, accumulated in registers.
#pragma once

#include <cstddef>

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace b2m {
namespace {

constexpr int kPanelVectors = 2;           // vectors of a register block's row
constexpr std::int64_t kDepthBlock = 256;  // a panel of this depth stays in the first-level cache

struct MultiplyAdd {
  template <class V>
  static B2M_INLINE V step(V sum, V a, V b) {
    return sum + a * b;
  }
};
struct SquaredDifference {
  template <class V>
  static B2M_INLINE V step(V sum, V a, V b) {
    const V difference = a - b;
    return sum + difference * difference;
  }
};

/// kRows x (kVectors * width) results in registers, `depth` steps.
template <class V, class Step, int kRows, int kVectors, class T = typename V::scalar>
B2M_INLINE void register_block(const T* a, std::int64_t a_row, std::int64_t a_depth, const T* b, std::int64_t b_depth, T* c,
                               std::int64_t c_row, std::int64_t depth, bool accumulate) {
  V sum[std::size_t{kRows}][std::size_t{kVectors}];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[i][v] = V(T(0));
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    V right[std::size_t{kVectors}];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = V::load(b + k * b_depth + v * V::width);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const V left(a[i * a_row + k * a_depth]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = Step::step(sum[i][v], left, right[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* to = c + i * c_row + v * V::width;
      (accumulate ? V::load(to) + sum[i][v] : sum[i][v]).store(to);
    }
  }
}

/// The rows that remain, at most kRows of them.
template <class V, class Step, int kRows, int kVectors, class T = typename V::scalar>
B2M_INLINE void last_rows(std::int64_t rows, const T* a, std::int64_t a_row, std::int64_t a_depth, const T* b,
                          std::int64_t b_depth, T* c, std::int64_t c_row, std::int64_t depth, bool accumulate) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      register_block<V, Step, kRows, kVectors>(a, a_row, a_depth, b, b_depth, c, c_row, depth, accumulate);
    } else {
      last_rows<V, Step, kRows - 1, kVectors>(rows, a, a_row, a_depth, b, b_depth, c, c_row, depth, accumulate);
    }
  }
}

/// All rows against one panel of kVectors vectors.
template <class V, class Step, int kRowBlock, int kVectors, class T = typename V::scalar>
void panel(const Product<T>& p, const T* a, const T* b, T* c, std::int64_t depth, bool accumulate) {
  std::int64_t i = 0;
  for (; i + kRowBlock <= p.rows; i += kRowBlock) {
    register_block<V, Step, kRowBlock, kVectors>(a + i * p.a_row, p.a_row, p.a_depth, b, p.b_depth, c + i * p.c_row, p.c_row,
                                                 depth, accumulate);
  }
  last_rows<V, Step, kRowBlock - 1, kVectors>(p.rows - i, a + i * p.a_row, p.a_row, p.a_depth, b, p.b_depth, c + i * p.c_row,
                                              p.c_row, depth, accumulate);
}

template <class V, class Step, int kRowBlock, class T = typename V::scalar>
void blocked(const Product<T>& p) {
  constexpr std::int64_t panel_columns = kPanelVectors * V::width;
  std::int64_t k = 0;
  do {  // once also for depth 0, which writes zeros
    const std::int64_t depth = p.depth - k < kDepthBlock ? p.depth - k : kDepthBlock;
    const bool accumulate = p.accumulate || k > 0;
    for (std::int64_t j = 0; j < p.columns; j += panel_columns) {
      const T* a = p.a + k * p.a_depth;
      const T* b = p.b + j / panel_columns * p.b_panel + k * p.b_depth;
      if (p.columns - j >= panel_columns) {
        panel<V, Step, kRowBlock, kPanelVectors>(p, a, b, p.c + j, depth, accumulate);
      } else {
        panel<V, Step, kRowBlock, 1>(p, a, b, p.c + j, depth, accumulate);
      }
    }
    k += kDepthBlock;
  } while (k < p.depth);
}

template <class V, int kRowBlock, class T = typename V::scalar>
void product(const Product<T>& p) {
  blocked<V, MultiplyAdd, kRowBlock>(p);
}
template <class V, int kRowBlock, class T = typename V::scalar>
void squared_distance(const Product<T>& p) {
  blocked<V, SquaredDifference, kRowBlock>(p);
}

}  // namespace
}  // namespace b2m
