#include "b2m/pairwise.h"

#include <cmath>
#include <limits>

#include "cpu/engine.h"
#include "cpu/operands.h"
#include "pair/elements.h"

namespace b2m {
namespace {

/// Position of the pair (i, i + 1) in a condensed vector.
std::int64_t condensed_start(std::int64_t i, std::int64_t count) { return i * count - i * (i + 1) / 2; }

/// Calls body(tile row, first tile column, number, matrix row, matrix column) for the stretch of every row that the layout holds.
template <class T, class Body>
void for_stored_rows(const Tile<T>& tile, Layout layout, std::int64_t count, const Body& body) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    const std::int64_t row = tile.row0 + i;
    if (layout == Layout::full) {
      body(i, std::int64_t{0}, tile.columns, row, tile.column0);
      continue;
    }
    const std::int64_t first = std::max<std::int64_t>(row + 1 - tile.column0, 0);
    if (first < tile.columns) {
      body(i, first, tile.columns - first, std::int64_t{0}, condensed_start(row, count) + tile.column0 + first - row - 1);
    }
  }
}

/// Writes the pairs i <= j of a tile of x with itself, and the pairs below the diagonal that are the same.
template <class T>
void write_both_halves(const Tile<T>& tile, const Matrix& out, Buffer<T>& transposed) {
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    const std::int64_t row = tile.row0 + i, first = std::max<std::int64_t>(row - tile.column0, 0);
    if (first >= tile.columns) break;
    write_row(out, row, tile.column0 + first, tile.columns - first, tile.data + i * tile.stride + first);
  }
  constexpr std::int64_t block = 16;  // by small squares, so that both sides stay in the first-level cache
  const std::int64_t stride = tile.rows;
  for (std::int64_t j0 = 0; j0 < tile.columns; j0 += block) {
    const std::int64_t columns = std::min(block, tile.columns - j0);
    for (std::int64_t i0 = 0; i0 < tile.rows; i0 += block) {
      const std::int64_t rows = std::min(block, tile.rows - i0);
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t i = 0; i < rows; ++i) transposed[j * stride + i0 + i] = tile.data[(i0 + i) * tile.stride + j0 + j];
      }
    }
    for (std::int64_t j = 0; j < columns; ++j) {
      const std::int64_t row = tile.column0 + j0 + j;
      write_row(out, row, tile.row0, std::clamp<std::int64_t>(row - tile.row0, 0, tile.rows), transposed.data() + j * stride);
    }
  }
}

template <class T>
void forward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out, const Executor& executor) {
  const int threads = executor.threads;
  const Operands<T> operands(x, y, scoring.metric, Use::scores, executor);
  Scorer<T> score(operands.row(), operands.column(), scoring);
  const Blocking blocking(x.rows, threads, operands.row_block(), y == nullptr);
  const bool mirrored = y == nullptr && layout == Layout::full;
  auto spaces = make_workspaces<T>(blocking, threads, mirrored ? 2 : 1);
  for_tiles<T>(
      x.rows, operands.column().count, y == nullptr, blocking, threads, score,
      [&](int thread, Tile<T> pairs) {
        Workspace<T>& space = spaces[static_cast<std::size_t>(thread)];
        const Tile<T> tile = with_data(pairs, space.scores);
        score(tile);
        if (mirrored) {
          write_both_halves(tile, out, space.second);
          return;
        }
        for_stored_rows(tile, layout, x.rows,
                        [&](std::int64_t i, std::int64_t first, std::int64_t number, std::int64_t row, std::int64_t column) {
                          write_row(out, row, column, number, tile.data + i * tile.stride + first);
                        });
      },
      [](std::int64_t, std::int64_t) {});
}

template <class T>
void backward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out_gradient, const Matrix* dx,
              const Matrix* dy, const Executor& executor) {
  const int threads = executor.threads;
  const Operands<T> operands(x, y, scoring.metric, Use::scores_and_gradient, executor);
  Scorer<T> score(operands.row(), operands.column(), scoring);
  const Blocking blocking(x.rows, threads, operands.row_block(), layout == Layout::condensed);
  auto spaces = make_workspaces<T>(blocking, threads, 2);
  GradientSums<T> sums(score, blocking, threads, dx != nullptr, dy != nullptr, y == nullptr);
  for_tiles<T>(
      x.rows, operands.column().count, layout == Layout::condensed, blocking, threads, score,
      [&](int thread, Tile<T> pairs) {
        Workspace<T>& space = spaces[static_cast<std::size_t>(thread)];
        const Tile<T> weight = with_data(pairs, space.second);
        if (layout == Layout::condensed) {
          for (std::int64_t k = 0; k < weight.rows * weight.stride; ++k) weight.data[k] = T(0);
        }
        for_stored_rows(weight, layout, x.rows,
                        [&](std::int64_t i, std::int64_t first, std::int64_t number, std::int64_t row, std::int64_t column) {
                          read_row(out_gradient, row, column, number, weight.data + i * weight.stride + first);
                        });
        if (!is_bilinear(scoring.metric)) {
          const Tile<T> tile = with_data(pairs, space.scores);
          score(tile);
          score.chain(weight, tile);
        }
        sums.add(thread, weight);
      },
      [&](std::int64_t column0, std::int64_t columns) { sums.finish_block(column0, columns); });
  sums.finish();
  if (dx) finish_gradient(operands.row(), sums.row_gradient, 1.0, *dx, threads);
  if (dy) finish_gradient(operands.column(), sums.column_gradient, 1.0, *dy, threads);
}

template <class T>
double pair_score(const T* x, const T* y, std::int64_t depth, Scoring scoring) {
  double sum = 0;
  const bool bilinear = is_bilinear(scoring.metric);
  for (std::int64_t k = 0; k < depth; ++k) {
    const double a = static_cast<double>(x[k]), b = static_cast<double>(y[k]);
    sum += bilinear ? a * b : (a - b) * (a - b);
  }
  if (scoring.metric == Metric::euclidean) return std::sqrt(sum);
  if (scoring.metric == Metric::rbf) return std::exp(-scoring.gamma * sum);
  return sum;
}

template <class T>
void list_forward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                  double* out, const Executor& executor) {
  const int threads = executor.threads;
  const Operand<T> rows = prepare<T>(x, scoring.metric, threads);
  parallel_ranges(threads, pairs, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      out[p] = pair_score(rows.rows.data() + i[p] * rows.stride, rows.rows.data() + j[p] * rows.stride, rows.depth, scoring);
    }
  });
}

template <class T>
void list_backward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                   const double* out_gradient, const Matrix& dx, const Executor& executor) {
  const int threads = executor.threads;
  const Operand<T> rows = prepare<T>(x, scoring.metric, threads);
  const bool bilinear = is_bilinear(scoring.metric);
  Buffer<double> weight(bilinear ? 0 : pairs);  // dL/dq, q the squared distance
  if (!bilinear) {
    parallel_ranges(threads, pairs, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const double value =
            pair_score(rows.rows.data() + i[p] * rows.stride, rows.rows.data() + j[p] * rows.stride, rows.depth, scoring);
        const double slope = scoring.metric == Metric::sqeuclidean ? 1
                             : scoring.metric == Metric::rbf       ? -scoring.gamma * value
                             : value == 0                          ? 0
                                                                   : 0.5 / value;
        weight[p] = out_gradient[p] * slope;
      }
    });
  }
  // In double: a row may take part in millions of pairs, and a running float sum would lose it.
  Buffer<double> sums(rows.count * rows.stride, 0.0);
  parallel_ranges(threads, rows.depth, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = 0; p < pairs; ++p) {
      const double g = bilinear ? out_gradient[p] : 2 * weight[p];
      const T* xi = rows.rows.data() + i[p] * rows.stride;
      const T* xj = rows.rows.data() + j[p] * rows.stride;
      double* gi = sums.data() + i[p] * rows.stride;
      double* gj = sums.data() + j[p] * rows.stride;
      for (std::int64_t k = begin; k < end; ++k) {
        const double a = static_cast<double>(xi[k]), b = static_cast<double>(xj[k]);
        gi[k] += g * (bilinear ? b : a - b);
        gj[k] += g * (bilinear ? a : b - a);
      }
    }
  });
  Buffer<T> gradient(sums.size());
  for (std::int64_t k = 0; k < sums.size(); ++k) gradient[k] = static_cast<T>(sums[k]);
  finish_gradient(rows, gradient, 1.0, dx, threads);
}

/// One candidate; `rank` is larger for a better one.
template <class T>
struct Candidate {
  T rank;
  std::int64_t index;
};
/// True if a is better than b: used as "less" it keeps the worst candidate at the front of a heap.
template <class T>
bool better(const Candidate<T>& a, const Candidate<T>& b) {
  const bool a_nan = std::isnan(a.rank), b_nan = std::isnan(b.rank);
  if (a_nan != b_nan) return b_nan;
  if (!a_nan && a.rank != b.rank) return a.rank > b.rank;
  return a.index < b.index;
}

template <class T>
void topk_rows(const Matrix& x, const Matrix* y, Scoring scoring, std::int64_t k, double* values, std::int64_t* indices,
               const Executor& executor) {
  const int threads = executor.threads;
  const Operands<T> operands(x, y, scoring.metric, Use::scores, executor, true);
  Scorer<T> score(operands.row(), operands.column(), scoring);
  const Blocking blocking(x.rows, threads, operands.row_block(), false);
  auto spaces = make_workspaces<T>(blocking, threads, 1);
  const bool smallest = scoring.metric == Metric::euclidean || scoring.metric == Metric::sqeuclidean;
  std::vector<Candidate<T>> heaps(static_cast<std::size_t>(x.rows * k));
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(x.rows), 0);
  for_tiles<T>(
      x.rows, operands.column().count, false, blocking, threads, score,
      [&](int thread, Tile<T> pairs) {
        Workspace<T>& space = spaces[static_cast<std::size_t>(thread)];
        const Tile<T> tile = with_data(pairs, space.scores);
        score(tile);
        if (smallest) score.level.scale_shift(tile, T(-1), T(0));
        T* maxima = space.vectors.data();
        for (std::int64_t i = 0; i < tile.rows; ++i) {
          const std::int64_t row = tile.row0 + i;
          const T* ranks = tile.data + i * tile.stride;
          Candidate<T>* heap = heaps.data() + row * k;
          std::int64_t& size = sizes[static_cast<std::size_t>(row)];
          score.level.run_maxima(ranks, tile.columns, maxima);
          for (std::int64_t first = 0; first < tile.columns; first += kMaximaRun) {
            // A later index wins no tie, so a run whose maximum is not larger than the worst kept changes nothing.
            if (size == k && !(maxima[first / kMaximaRun] > heap[0].rank) && !std::isnan(heap[0].rank)) continue;
            const std::int64_t last = std::min(first + kMaximaRun, tile.columns);
            for (std::int64_t j = first; j < last; ++j) {
              const Candidate<T> candidate{ranks[j], tile.column0 + j};
              if (!y && candidate.index == row) continue;
              if (size < k) {
                heap[size++] = candidate;
                std::push_heap(heap, heap + size, better<T>);
              } else if (better(candidate, heap[0])) {
                std::pop_heap(heap, heap + k, better<T>);
                heap[k - 1] = candidate;
                std::push_heap(heap, heap + k, better<T>);
              }
            }
          }
        }
      },
      [](std::int64_t, std::int64_t) {});
  parallel_ranges(threads, x.rows, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      Candidate<T>* heap = heaps.data() + row * k;
      std::sort(heap, heap + k, better<T>);
      for (std::int64_t r = 0; r < k; ++r) {
        values[row * k + r] = static_cast<double>(smallest ? -heap[r].rank : heap[r].rank) + 0.0;  // never -0
        indices[row * k + r] = heap[r].index;
      }
    }
  });
}

}  // namespace

void pairwise_forward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out,
                      const Executor& executor) {
  with_compute_type(x.dtype, [&](auto zero) { forward<decltype(zero)>(x, y, scoring, layout, out, executor); });
}

void pairwise_backward(const Matrix& x, const Matrix* y, Scoring scoring, Layout layout, const Matrix& out_gradient,
                       const Matrix* dx, const Matrix* dy, const Executor& executor) {
  with_compute_type(x.dtype,
                    [&](auto zero) { backward<decltype(zero)>(x, y, scoring, layout, out_gradient, dx, dy, executor); });
}

void pair_list_forward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                       double* out, const Executor& executor) {
  with_compute_type(x.dtype, [&](auto zero) { list_forward<decltype(zero)>(x, i, j, pairs, scoring, out, executor); });
}

void pair_list_backward(const Matrix& x, const std::int64_t* i, const std::int64_t* j, std::int64_t pairs, Scoring scoring,
                        const double* out_gradient, const Matrix& dx, const Executor& executor) {
  with_compute_type(x.dtype,
                    [&](auto zero) { list_backward<decltype(zero)>(x, i, j, pairs, scoring, out_gradient, dx, executor); });
}

void topk(const Matrix& x, const Matrix* y, Scoring scoring, std::int64_t k, double* values, std::int64_t* indices,
          const Executor& executor) {
  with_compute_type(x.dtype, [&](auto zero) { topk_rows<decltype(zero)>(x, y, scoring, k, values, indices, executor); });
}

void self_scores(const Matrix& x, Scoring scoring, double* out, const Executor& executor) {
  with_compute_type(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Operand<T> rows = prepare<T>(x, scoring.metric, executor.threads);
    parallel_ranges(executor.threads, rows.count, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T* row = rows.rows.data() + i * rows.stride;
        out[i] = pair_score(row, row, rows.depth, scoring);
      }
    });
  });
}

}  // namespace b2m
