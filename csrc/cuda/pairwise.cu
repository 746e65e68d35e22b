// Launchers of the scores of all pairs.
#include "cuda/pairwise.h"

#include "cuda/run.h"

namespace b2m {
namespace cuda {
namespace {

Grid grid_of(const Scores& scores, bool condensed, Band band) {
  return {band.begin, band.end, condensed ? band.begin : 0, scores.y.count, condensed};
}

bool is_plain(const Matrix& out, bool condensed, DType computed) {
  const std::uintptr_t size = out.dtype == DType::bfloat16 ? 2 : out.dtype == DType::float32 ? 4 : 8;
  return !condensed && (out.dtype == DType::bfloat16 || out.dtype == computed) && out.column_stride == 1 &&
         out.row_stride % 2 == 0 && reinterpret_cast<std::uintptr_t>(out.data) % (2 * size) == 0;
}

}  // namespace

void pairwise_scores(const Scores& scores, bool condensed, Band band, const Matrix& out, Stream stream) {
  const SideRows side{&scores.x, &scores.y, scores.products, scores.scoring};
  run_tiles<WriteScores>(
      "pairwise_scores", scores.x.arithmetic, grid_of(scores, condensed, band), side, side,
      [&](auto zero) {
        using T = decltype(zero);
        const DType computed = sizeof(T) == 8 ? DType::float64 : DType::float32;
        return typename WriteScores<T>::Parameters{{condensed, scores.x.count}, out, is_plain(out, condensed, computed)};
      },
      stream);
}

void pairwise_weights(const Scores& scores, bool condensed, Band band, const Matrix& out_gradient, const Weights& weights,
                      Stream stream) {
  // The derivative of a dot product needs no product.
  const bool bilinear = is_bilinear(scores.scoring.metric);
  const SideRows side{bilinear ? nullptr : &scores.x, bilinear ? nullptr : &scores.y, scores.products, scores.scoring};
  const Arithmetic arithmetic = scores.x.arithmetic == Arithmetic::float64 ? Arithmetic::float64 : Arithmetic::float32;
  run_tiles<PairwiseWeights>(
      "pairwise_weights", arithmetic, grid_of(scores, condensed, band), side, side,
      [&](auto zero) {
        return typename PairwiseWeights<decltype(zero)>::Parameters{
            scores.scoring, {condensed, scores.x.count}, out_gradient, weights};
      },
      stream);
}

}  // namespace cuda
}  // namespace b2m
