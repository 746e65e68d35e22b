#include "b2m/products.h"

#include <algorithm>

#include "cpu/buffer.h"
#include "cpu/operands.h"
#include "cpu/parallel.h"
#include "pair/elements.h"

namespace b2m {
namespace {

/// Rows of a matrix where whole vectors can be read: padded with zeros.
template <class T>
struct PaddedRows {
  std::int64_t stride;
  Buffer<T> values;

  PaddedRows(const Matrix& from, int threads)
      : stride((from.columns + kernels<T>().width - 1) / kernels<T>().width * kernels<T>().width), values(from.rows * stride) {
    parallel_ranges(threads, from.rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        T* row = values.data() + i * stride;
        read_row(from, i, 0, from.columns, row);
        std::fill(row + from.columns, row + stride, T(0));
      }
    });
  }
};

constexpr std::int64_t kRows = 112;  // of a product at a time, as of a tile

/// body(first, number) over blocks of rows, dealt out in turn: of a triangle the first ones are the longest.
template <class Body>
void for_blocks(int threads, std::int64_t rows, const Body& body) {
  parallel(threads, [&](int thread) {
    for (std::int64_t first = thread * kRows; first < rows; first += threads * kRows)
      body(first, std::min(kRows, rows - first));
  });
}

template <class T>
void add_cross(const Matrix& a, const Matrix& b, double* sums, int threads) {
  const Kernels<T>& level = kernels<T>();
  const bool same = a.data == b.data;
  const PaddedRows<T> left(a, threads), other(same ? Matrix{} : b, threads);
  const PaddedRows<T>& right = same ? left : other;
  for_blocks(threads, a.columns, [&](std::int64_t first, std::int64_t count) {
    const std::int64_t from = same ? first / level.column_panel * level.column_panel : 0;
    const std::int64_t columns = right.stride - from;
    Buffer<T> block(count * columns);
    level.product({count, columns, a.rows, left.values.data() + first, 1, left.stride, right.values.data() + from, right.stride,
                   level.column_panel, block.data(), columns, false});
    for (std::int64_t i = 0; i < count; ++i) {
      double* to = sums + (first + i) * b.columns;
      for (std::int64_t j = same ? first + i : 0; j < b.columns; ++j) {
        to[j] += static_cast<double>(block[i * columns + j - from]);
      }
    }
  });
  if (!same) return;
  for (std::int64_t i = 0; i < a.columns; ++i) {
    for (std::int64_t j = 0; j < i; ++j) sums[i * b.columns + j] = sums[j * b.columns + i];
  }
}

template <class T>
void sum_of(const Matrix& a, const Matrix& x, const Matrix& b, const Matrix& y, const Matrix& out, int threads) {
  const Kernels<T>& level = kernels<T>();
  const PaddedRows<T> first_left(a, threads), first_right(x, threads), second_left(b, threads), second_right(y, threads);
  const std::int64_t columns = first_right.stride;
  for_blocks(threads, out.rows, [&](std::int64_t first, std::int64_t count) {
    Buffer<T> block(count * columns);
    const auto add = [&](const PaddedRows<T>& left, const PaddedRows<T>& right, std::int64_t depth, bool accumulate) {
      level.product({count, columns, depth, left.values.data() + first * left.stride, left.stride, 1, right.values.data(),
                     right.stride, level.column_panel, block.data(), columns, accumulate});
    };
    add(first_left, first_right, a.columns, false);
    add(second_left, second_right, b.columns, true);
    for (std::int64_t i = 0; i < count; ++i) write_row(out, first + i, 0, out.columns, block.data() + i * columns);
  });
}

}  // namespace

void add_cross_products(const Matrix& a, const Matrix& b, double* sums, int threads) {
  with_compute_type(a.dtype, [&](auto zero) { add_cross<decltype(zero)>(a, b, sums, threads); });
}

void sum_of_products(const Matrix& a, const Matrix& x, const Matrix& b, const Matrix& y, const Matrix& out, int threads) {
  with_compute_type(a.dtype, [&](auto zero) { sum_of<decltype(zero)>(a, x, b, y, out, threads); });
}

}  // namespace b2m
