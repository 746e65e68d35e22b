// Launchers of the contrastive losses, and the merging of their partial sums.
#include "cuda/contrastive.h"

#include "cuda/run.h"

namespace b2m {
namespace cuda {
namespace {

/// A sum of exponentials, exp(shift) * sum; sum 0: nothing yet.
struct ExponentialSum {
  double shift, sum;

  /// With a partial sum whose shift, where it is not finite, was taken as 0.
  __device__ __forceinline__ void add(double own_shift, double part) {
    if (part == 0) return;  // NaN is not 0
    const double other = usable_shift(own_shift);
    if (sum == 0) {
      shift = other;
      sum = part;
    } else if (other > shift) {
      sum = sum * pair::exp<double>(shift - other) + part;
      shift = other;
    } else {
      sum += part * pair::exp<double>(other - shift);
    }
  }
  /// log(exp(old) + the sum).
  __device__ __forceinline__ double log_with(double old) {
    if (!(old == -Infinity<double>::value())) add(old, old - old == 0 ? 1.0 : old);  // infinity and NaN stay what they are
    return sum == 0 ? -Infinity<double>::value() : shift + log(sum);
  }
};

constexpr int kMergedRows = 32;                  // of a block
constexpr int kSlices = kThreads / kMergedRows;  // of the tiles, added by a thread each

/// Merges a band's partial sums of one direction into its state: the tiles in kSlices slices, the slices in order.
/// partials: [quantity][tiles][padded].
template <class T, int kQuantities>
__global__ void __launch_bounds__(kThreads) merge_softmax(const T* partials, std::int64_t tiles, std::int64_t padded,
                                                          std::int64_t count, double* state, std::int64_t state_stride) {
  __shared__ ExponentialSum sums[2][kSlices][kMergedRows];
  __shared__ double others[4][kSlices][kMergedRows];  // total, count, largest negative, largest positive
  const int row = static_cast<int>(threadIdx.x) % kMergedRows, slice = static_cast<int>(threadIdx.x) / kMergedRows;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kMergedRows + row;
  const double nothing = -Infinity<double>::value();
  const auto at = [&](int quantity, std::int64_t tile) {
    return static_cast<double>(partials[(quantity * tiles + tile) * padded + i]);
  };
  ExponentialSum negative{0, 0}, positive{0, 0};
  double total = 0, number = 0, negative_max = nothing, positive_max = nothing;
  const std::int64_t begin = slice * tiles / kSlices, end = (slice + 1) * tiles / kSlices;
  for (std::int64_t tile = begin; i < count && tile < end; ++tile) {
    negative.add(at(0, tile), at(1, tile));
    if (kQuantities == 2) continue;
    negative_max = larger(negative_max, at(0, tile));
    if (at(5, tile) == 0) continue;
    positive.add(at(2, tile), at(3, tile));
    positive_max = larger(positive_max, at(2, tile));
    total += at(4, tile);
    number += at(5, tile);
  }
  sums[0][slice][row] = negative;
  if (kQuantities > 2) {
    sums[1][slice][row] = positive;
    const double values[4] = {total, number, negative_max, positive_max};
    for (int which = 0; which < 4; ++which) others[which][slice][row] = values[which];
  }
  __syncthreads();
  if (slice > 0 || i >= count) return;
  for (int other = 1; other < kSlices; ++other) negative.add(sums[0][other][row].shift, sums[0][other][row].sum);
  state[i] = negative.log_with(state[i]);
  if constexpr (kQuantities > 2) {
    for (int other = 1; other < kSlices; ++other) {
      positive.add(sums[1][other][row].shift, sums[1][other][row].sum);
      total += others[0][other][row];
      number += others[1][other][row];
      negative_max = larger(negative_max, others[2][other][row]);
      positive_max = larger(positive_max, others[3][other][row]);
    }
    double* const rest = state + i;
    rest[state_stride] = positive.log_with(rest[state_stride]);
    rest[2 * state_stride] += total;
    rest[3 * state_stride] += number;
    rest[4 * state_stride] = larger(rest[4 * state_stride], negative_max);
    rest[5 * state_stride] = larger(rest[5 * state_stride], positive_max);
  }
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
std::int64_t merging_blocks(std::int64_t count) { return (count + kMergedRows - 1) / kMergedRows; }

Grid grid_of(const Contrastive& problem, Band band) { return {band.begin, band.end, 0, problem.key.count, false}; }

SideRows side_of(const Contrastive& problem) { return {&problem.query, &problem.key, problem.products, {Metric::dot, 0}}; }

template <class T>
SoftmaxParameters<T> softmax_parameters(const Contrastive& problem, double* row_state, double* column_state, void* row_partials,
                                        void* column_partials) {
  return {{problem.row_label, problem.column_label, problem.column_offset},
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
    launch(what, merge_softmax<T, kQuantities>, merging_blocks(rows), kThreads, 0, stream, static_cast<const T*>(row_partials),
           grid.column_tiles(), grid.padded_rows(), rows, row_state + grid.row_begin, problem.query.count);
    if (!column_state) return;
    launch(what, merge_softmax<T, kQuantities>, merging_blocks(problem.key.count), kThreads, 0, stream,
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
        return SoftmaxWeightsParameters<T>{{problem.row_label, problem.column_label, problem.column_offset},
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
            {{problem.row_label, problem.column_label, problem.column_offset}, problem.logit_scale, logit_bias}, row_partials};
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
        return typename SigmoidWeights<T>::Parameters{
            {{problem.row_label, problem.column_label, problem.column_offset}, problem.logit_scale, logit_bias},
            static_cast<const T*>(row_weight),
            weights,
            partials,
            partials + grid.tiles()};
      },
      stream);
}

}  // namespace cuda
}  // namespace b2m
