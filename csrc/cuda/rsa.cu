// Launchers of the comparisons of two similarity matrices.
#include "cuda/rsa.h"

#include "cuda/run.h"

namespace b2m {
namespace cuda {
namespace {

Grid grid_of(const PairProblem& problem, Band band) { return {band.begin, band.end, band.begin, problem.count, true}; }

SideRows side_of(const Side& side) {
  const Rows* rows = side.stored ? nullptr : &side.rows;
  return {rows, rows, side.products, side.stored ? Scoring{Metric::dot, 0} : side.scoring};
}

template <class T>
PairView<T> view_of(const PairProblem& problem) {
  const auto stored = [](const Side& side) { return Stored<T>{static_cast<const T*>(side.stored), side.stride}; };
  return {stored(problem.c), stored(problem.t), stored(problem.weights), problem.c.scoring};
}

template <template <class> class Epilogue, class MakeParameters>
void run_pairs(const char* what, const PairProblem& problem, Band band, const MakeParameters& parameters, Stream stream) {
  run_tiles<Epilogue>(what, problem.c.rows.arithmetic, grid_of(problem, band), side_of(problem.c), side_of(problem.t),
                      parameters, stream);
}

/// to[i] += its sums in all tiles of its row and in all tiles of its column, in order. Tiles below the diagonal were not written.
__global__ void __launch_bounds__(kThreads)
    add_row_sums(const Grid grid, const double* rows, const double* columns, double* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;  // from the band's first column on
  if (i >= grid.column_end - grid.column_begin) return;
  const int own_tile = static_cast<int>(i / kTile);
  double sum = 0;
  if (i < grid.row_end - grid.row_begin) {
    for (int tile = own_tile; tile < grid.column_tiles(); ++tile) sum += rows[tile * grid.padded_rows() + i];
  }
  for (int tile = 0; tile <= own_tile && tile < grid.row_tiles(); ++tile) sum += columns[tile * grid.padded_columns() + i];
  to[grid.column_begin + i] += sum;
}

template <class T, bool weigh>
typename DifferenceOfPairs<T, weigh>::Parameters difference_of(const PairProblem& problem, Band band, Transform transform,
                                                               double epsilon, double* partials, const Weights& weights) {
  return {
      view_of<T>(problem), transform, static_cast<T>(epsilon), partials, partials + grid_of(problem, band).tiles(), weights};
}

}  // namespace

void squared_difference(const PairProblem& problem, Band band, Transform transform, double epsilon, double* partials,
                        Stream stream) {
  run_pairs<SquaredDifference>(
      "squared_difference", problem, band,
      [&](auto zero) { return difference_of<decltype(zero), false>(problem, band, transform, epsilon, partials, Weights{}); },
      stream);
}

void difference_weights(const PairProblem& problem, Band band, Transform transform, double epsilon, const Weights& weights,
                        double* partials, Stream stream) {
  run_pairs<DifferenceWeights>(
      "difference_weights", problem, band,
      [&](auto zero) { return difference_of<decltype(zero), true>(problem, band, transform, epsilon, partials, weights); },
      stream);
}

void pair_moments(const PairProblem& problem, Band band, const double* shifts, double* partials, double* c_row, double* t_row,
                  double* row_workspace, Stream stream) {
  const Grid grid = grid_of(problem, band);
  const std::int64_t of_rows = grid.column_tiles() * grid.padded_rows(), of_columns = grid.row_tiles() * grid.padded_columns();
  double* rows = row_workspace;
  double* columns = row_workspace ? row_workspace + 2 * of_rows : nullptr;
  run_pairs<Moments>(
      "pair_moments", problem, band,
      [&](auto zero) {
        using T = decltype(zero);
        return typename Moments<T>::Parameters{view_of<T>(problem), shifts, partials, rows, columns};
      },
      stream);
  if (!rows || grid.tiles() <= 0) return;
  const DeviceScope scope(stream.device);
  const std::int64_t blocks = (grid.column_end - grid.column_begin + kThreads - 1) / kThreads;
  launch("pair_moments", add_row_sums, blocks, kThreads, 0, stream, grid, static_cast<const double*>(rows),
         static_cast<const double*>(columns), c_row);
  launch("pair_moments", add_row_sums, blocks, kThreads, 0, stream, grid, static_cast<const double*>(rows + of_rows),
         static_cast<const double*>(columns + of_columns), t_row);
}

void linear_weights(const PairProblem& problem, Band band, const double* coefficients, const double* per_item,
                    const Weights& weights, Stream stream) {
  run_pairs<LinearWeights>(
      "linear_weights", problem, band,
      [&](auto zero) {
        using T = decltype(zero);
        return typename LinearWeights<T>::Parameters{view_of<T>(problem), coefficients, per_item, weights};
      },
      stream);
}

}  // namespace cuda
}  // namespace b2m
