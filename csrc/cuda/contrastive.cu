// Launchers of the contrastive losses, and the merging of their partial sums.
#include "cuda/contrastive.h"

#include "cuda/run.h"

namespace b2m {
namespace cuda {
namespace {

/// Merges a band's partial sums of one direction into its state, tile after tile. partials: [quantity][tiles][padded].
template <class T, int kQuantities>
__global__ void __launch_bounds__(kThreads) merge_softmax(const T* partials, std::int64_t tiles, std::int64_t padded,
                                                          std::int64_t count, double* state, std::int64_t state_stride) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const auto at = [&](int quantity, std::int64_t tile) {
    return static_cast<double>(partials[(quantity * tiles + tile) * padded + i]);
  };
  const double nothing = -Infinity<double>::value();
  // log(exp(old) + sum of sums): the largest shift first, so that every term is at most its sum.
  const auto merge = [&](int quantity, double old) {
    double highest = old;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      if (at(quantity + 1, tile) != 0) highest = larger(highest, at(quantity, tile));  // a NaN sum is not 0
    }
    const double shift = highest > nothing && highest < Infinity<double>::value() ? highest : 0.0;
    double sum = pair::exp<double>(old - shift);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      const double part = at(quantity + 1, tile), own = at(quantity, tile);
      if (part == 0) continue;
      // Where the shift of a partial sum was not finite it was taken as 0.
      sum += part * pair::exp<double>((own > nothing && own < Infinity<double>::value() ? own : 0.0) - shift);
    }
    return sum == 0 ? nothing : shift + log(sum);
  };
  state[i] = merge(0, state[i]);
  if (kQuantities == 2) return;
  double* positive_lse = state + state_stride;
  positive_lse[i] = merge(2, positive_lse[i]);
  double total = state[2 * state_stride + i], number = state[3 * state_stride + i];
  double negative_max = state[4 * state_stride + i], positive_max = state[5 * state_stride + i];
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    negative_max = larger(negative_max, at(0, tile));
    positive_max = larger(positive_max, at(2, tile));
    if (at(5, tile) == 0) continue;
    total += at(4, tile);
    number += at(5, tile);
  }
  state[2 * state_stride + i] = total;
  state[3 * state_stride + i] = number;
  state[4 * state_stride + i] = negative_max;
  state[5 * state_stride + i] = positive_max;
}

/// to[i] = sum over tiles of partials[tile][i].
__global__ void __launch_bounds__(kThreads)
    add_tiles(const double* partials, std::int64_t tiles, std::int64_t padded, std::int64_t count, double* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  double sum = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) sum += partials[tile * padded + i];
  to[i] = sum;
}

std::int64_t blocks_for(std::int64_t count) { return (count + kThreads - 1) / kThreads; }

Grid grid_of(const Contrastive& problem, Band band) { return {band.begin, band.end, 0, problem.key.count, false}; }

SideRows side_of(const Contrastive& problem) { return {&problem.query, &problem.key, problem.products, {Metric::dot, 0}}; }

template <class T>
SoftmaxParameters<T> softmax_parameters(const Contrastive& problem, double* row_state, double* column_state, void* row_partials,
                                        void* column_partials) {
  return {{problem.row_label, problem.column_label},
          problem.logit_scale,
          row_state,
          column_state,
          problem.query.count,
          problem.key.count,
          static_cast<T*>(row_partials),
          static_cast<T*>(column_state ? column_partials : nullptr)};
}

template <template <class> class Epilogue>
void softmax_sums(const char* what, const Contrastive& problem, const Grid& grid, double* row_state, double* column_state,
                  void* row_partials, void* column_partials, Stream stream) {
  run_tiles<Epilogue>(
      what, problem.query.arithmetic, grid, side_of(problem), side_of(problem),
      [&](auto zero) {
        return softmax_parameters<decltype(zero)>(problem, row_state, column_state, row_partials, column_partials);
      },
      stream);
  const auto merge = [&](auto zero) {
    using T = decltype(zero);
    constexpr int kQuantities = Epilogue<T>::kQuantities;
    const std::int64_t rows = grid.row_end - grid.row_begin;
    launch(what, merge_softmax<T, kQuantities>, blocks_for(rows), kThreads, 0, stream, static_cast<const T*>(row_partials),
           grid.column_tiles(), grid.padded_rows(), rows, row_state + grid.row_begin, problem.query.count);
    if (!column_state) return;
    launch(what, merge_softmax<T, kQuantities>, blocks_for(problem.key.count), kThreads, 0, stream,
           static_cast<const T*>(column_partials), grid.row_tiles(), grid.padded_columns(), problem.key.count, column_state,
           problem.key.count);
  };
  if (problem.query.arithmetic == Arithmetic::float64) {
    merge(double());
  } else {
    merge(float());
  }
}

}  // namespace

void softmax_statistics(const Contrastive& problem, Band band, bool maxima, double* row_state, double* column_state,
                        void* row_partials, void* column_partials, Stream stream) {
  const char* what = "softmax_statistics";
  const Grid grid = grid_of(problem, band);
  if (grid.tiles() <= 0) return;
  const DeviceScope scope(stream.device);
  if (maxima || problem.row_label) {
    softmax_sums<LabelledSoftmaxSums>(what, problem, grid, row_state, column_state, row_partials, column_partials, stream);
  } else {
    softmax_sums<SoftmaxSums>(what, problem, grid, row_state, column_state, row_partials, column_partials, stream);
  }
}

namespace {

template <template <class> class Epilogue>
void run_softmax_weights(const Contrastive& problem, Band band, const void* row_side, const void* column_side,
                         const Weights& weights, double* scale_partials, Stream stream) {
  run_tiles<Epilogue>(
      "softmax_weights", problem.query.arithmetic, grid_of(problem, band), side_of(problem), side_of(problem),
      [&](auto zero) {
        using T = decltype(zero);
        return SoftmaxWeightsParameters<T>{{problem.row_label, problem.column_label},
                                           problem.logit_scale,
                                           {static_cast<const T*>(row_side), problem.query.count},
                                           {static_cast<const T*>(column_side), problem.key.count},
                                           weights,
                                           scale_partials};
      },
      stream);
}

}  // namespace

void softmax_weights(const Contrastive& problem, Band band, const void* row_side, const void* column_side,
                     const Weights& weights, double* scale_partials, Stream stream) {
  const auto run = problem.row_label ? run_softmax_weights<LabelledSoftmaxWeights> : run_softmax_weights<SoftmaxWeights>;
  run(problem, band, row_side, column_side, weights, scale_partials, stream);
}

void sigmoid_losses(const Contrastive& problem, const double* logit_bias, Band band, double* row_loss, double* row_partials,
                    Stream stream) {
  const char* what = "sigmoid_losses";
  const Grid grid = grid_of(problem, band);
  const DeviceScope scope(stream.device);
  run_tiles<SigmoidLosses>(
      what, problem.query.arithmetic, grid, side_of(problem), side_of(problem),
      [&](auto zero) {
        using T = decltype(zero);
        return typename SigmoidLosses<T>::Parameters{
            {{problem.row_label, problem.column_label}, problem.logit_scale, logit_bias}, row_partials};
      },
      stream);
  const std::int64_t rows = band.end - band.begin;
  launch(what, add_tiles, blocks_for(rows), kThreads, 0, stream, static_cast<const double*>(row_partials), grid.column_tiles(),
         grid.padded_rows(), rows, row_loss + band.begin);
}

void sigmoid_weights(const Contrastive& problem, const double* logit_bias, Band band, const void* row_weight,
                     const Weights& weights, double* partials, Stream stream) {
  const Grid grid = grid_of(problem, band);
  run_tiles<SigmoidWeights>(
      "sigmoid_weights", problem.query.arithmetic, grid, side_of(problem), side_of(problem),
      [&](auto zero) {
        using T = decltype(zero);
        return
            typename SigmoidWeights<T>::Parameters{{{problem.row_label, problem.column_label}, problem.logit_scale, logit_bias},
                                                   static_cast<const T*>(row_weight),
                                                   weights,
                                                   partials,
                                                   partials + grid.tiles()};
      },
      stream);
}

}  // namespace cuda
}  // namespace b2m
