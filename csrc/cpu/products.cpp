#include "b2m/products.h"

#include <algorithm>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/operands.h"
#include "cpu/parallel.h"
#include "pair/elements.h"

namespace b2m {
namespace {

template <class T>
std::int64_t whole_vectors(std::int64_t columns) {
  return (columns + kernels<T>().width - 1) / kernels<T>().width * kernels<T>().width;
}

/// Rows of a matrix where whole vectors can be read: padded with zeros.
template <class T>
struct PaddedRows {
  std::int64_t stride;
  Buffer<T> values;

  PaddedRows(const Matrix& from, int threads)
      : stride(padded_stride<T>(from.columns, kernels<T>().width)), values(from.rows * stride) {
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

/// body(first, number, room) over blocks of rows, dealt out in turn: of a triangle the first ones are the longest. room: for a block of
/// `columns` results a row, the thread's own. (Made here: a parallel body must not throw.)
template <class T, class Body>
void for_blocks(int threads, std::int64_t rows, std::int64_t columns, const Body& body) {
  std::vector<Buffer<T>> rooms;
  for (int thread = 0; thread < threads; ++thread) rooms.emplace_back(std::min(kRows, rows) * columns);
  parallel(threads, [&](int thread) {
    for (std::int64_t first = thread * kRows; first < rows; first += threads * kRows) {
      body(first, std::min(kRows, rows - first), rooms[static_cast<std::size_t>(thread)].data());
    }
  });
}

template <class T>
void add_cross(const Matrix& a, const Matrix* b, double* sums, int threads) {
  const Kernels<T>& level = kernels<T>();
  const PaddedRows<T> left(a, threads), other(b ? *b : Matrix{}, threads);
  const PaddedRows<T>& right = b ? other : left;
  const std::int64_t q = b ? b->columns : a.columns, padded = whole_vectors<T>(q);
  for_blocks<T>(threads, a.columns, padded, [&](std::int64_t first, std::int64_t count, T* block) {
    const std::int64_t from = b ? 0 : first / level.column_panel * level.column_panel;
    const std::int64_t columns = padded - from;
    level.product({count, columns, a.rows, left.values.data() + first, 1, left.stride, right.values.data() + from, right.stride,
                   level.column_panel, block, columns, false});
    for (std::int64_t i = 0; i < count; ++i) {
      double* to = sums + (first + i) * q;
      for (std::int64_t j = b ? 0 : first + i; j < q; ++j) to[j] += static_cast<double>(block[i * columns + j - from]);
    }
  });
  if (b) return;
  for (std::int64_t i = 0; i < q; ++i) {
    for (std::int64_t j = 0; j < i; ++j) sums[i * q + j] = sums[j * q + i];
  }
}

template <class T>
void sum_of(const Matrix& a, const Matrix& x, const Matrix& b, const Matrix& y, const Matrix& out, int threads) {
  const Kernels<T>& level = kernels<T>();
  const PaddedRows<T> first_left(a, threads), first_right(x, threads), second_left(b, threads), second_right(y, threads);
  const std::int64_t columns = whole_vectors<T>(out.columns);
  for_blocks<T>(threads, out.rows, columns, [&](std::int64_t first, std::int64_t count, T* block) {
    const auto add = [&](const PaddedRows<T>& left, const PaddedRows<T>& right, std::int64_t depth, bool accumulate) {
      level.product({count, columns, depth, left.values.data() + first * left.stride, left.stride, 1, right.values.data(),
                     right.stride, level.column_panel, block, columns, accumulate});
    };
    add(first_left, first_right, a.columns, false);
    add(second_left, second_right, b.columns, true);
    for (std::int64_t i = 0; i < count; ++i) write_row(out, first + i, 0, out.columns, block + i * columns);
  });
}

}  // namespace

void add_cross_products(const Matrix& a, const Matrix* b, double* sums, int threads) {
  with_compute_type(a.dtype, [&](auto zero) { add_cross<decltype(zero)>(a, b, sums, threads); });
}

void sum_of_products(const Matrix& a, const Matrix& x, const Matrix& b, const Matrix& y, const Matrix& out, int threads) {
  with_compute_type(a.dtype, [&](auto zero) { sum_of<decltype(zero)>(a, x, b, y, out, threads); });
}

}  // namespace b2m
