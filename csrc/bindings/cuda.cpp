// The CUDA engine's functions, as the submodule `cuda`. The GIL is released while kernels are started.
#include "bindings/arguments.h"

#if defined(B2M_HAVE_CUDA)

#include <string>

#include "b2m/cuda.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace b2m {
namespace bindings {
namespace {

/// device, stream
using StreamTuple = std::tuple<int, Address>;
/// address, arithmetic, count, depth, parts
using RowsTuple = std::tuple<Address, int, std::int64_t, std::int64_t, int>;
/// begin, end
using BandTuple = std::tuple<std::int64_t, std::int64_t>;
/// address, dtype, stride
using WeightsTuple = std::tuple<Address, int, std::int64_t>;
/// query, key, products, addresses of the logit scale and of both labels, number of the first key
using ContrastiveTuple = std::tuple<RowsTuple, RowsTuple, int, Address, Address, Address, std::int64_t>;
/// x, y, products, metric, gamma
using ScoresTuple = std::tuple<RowsTuple, RowsTuple, int, int, double>;
/// rows, products, metric, gamma, address and stride of stored scores
using SideTuple = std::tuple<RowsTuple, int, int, double, Address, std::int64_t>;
/// count, c, t, weights
using PairTuple = std::tuple<std::int64_t, SideTuple, SideTuple, SideTuple>;

cuda::Stream stream(const StreamTuple& from) { return {std::get<0>(from), reinterpret_cast<void*>(std::get<1>(from))}; }

cuda::Rows rows(const RowsTuple& from) {
  const auto& [address, arithmetic, count, depth, parts] = from;
  return {reinterpret_cast<void*>(address), static_cast<cuda::Arithmetic>(arithmetic), count, depth, parts};
}

cuda::Band band(const BandTuple& from) { return {std::get<0>(from), std::get<1>(from)}; }

cuda::Weights weights(const WeightsTuple& from) {
  const auto& [address, dtype, stride] = from;
  return {reinterpret_cast<void*>(address), static_cast<DType>(dtype), stride};
}

cuda::Contrastive contrastive(const ContrastiveTuple& from) {
  const auto& [query, key, products, logit_scale, row_label, column_label, column_offset] = from;
  return {rows(query),
          rows(key),
          products,
          array<double>(logit_scale),
          array<std::int32_t>(row_label),
          array<std::int32_t>(column_label),
          column_offset};
}

cuda::Scores scores(const ScoresTuple& from) {
  const auto& [x, y, products, metric, gamma] = from;
  return {rows(x), rows(y), products, scoring(metric, gamma)};
}

cuda::Side side(const SideTuple& from) {
  const auto& [patterns, products, metric, gamma, stored, stride] = from;
  return {rows(patterns), products, scoring(metric, gamma), array<void>(stored), stride};
}

cuda::PairProblem pairs(const PairTuple& from) {
  const auto& [count, c, t, w] = from;
  return {count, side(c), side(t), side(w)};
}

void register_rows(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "prepare_rows",
      [](const MatrixTuple& x, int metric, Address center, const RowsTuple& to, Address inverse_norm, const StreamTuple& on) {
        cuda::prepare_rows(matrix(x), static_cast<Metric>(metric), array<double>(center), rows(to), array<double>(inverse_norm),
                           stream(on));
      },
      Release());
  m.def(
      "finish_rows",
      [](const MatrixTuple& gradient, const MatrixTuple& x, int metric, Address center, Address inverse_norm, Address factor,
         const MatrixTuple& dx, const StreamTuple& on) {
        cuda::finish_rows(matrix(gradient), matrix(x), static_cast<Metric>(metric), array<double>(center),
                          array<double>(inverse_norm), array<double>(factor), matrix(dx), stream(on));
      },
      Release());
}

void register_contrastive(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "softmax_statistics",
      [](const ContrastiveTuple& problem, const BandTuple& of, bool maxima, Address row_state, Address column_state,
         Address row_partials, Address column_partials, const StreamTuple& on) {
        cuda::softmax_statistics(contrastive(problem), band(of), maxima, array<double>(row_state), array<double>(column_state),
                                 array<void>(row_partials), array<void>(column_partials), stream(on));
      },
      Release());
  m.def(
      "softmax_weights",
      [](const ContrastiveTuple& problem, const BandTuple& of, Address row_side, Address column_side, const WeightsTuple& to,
         Address scale_partials, const StreamTuple& on) {
        cuda::softmax_weights(contrastive(problem), band(of), array<void>(row_side), array<void>(column_side), weights(to),
                              array<double>(scale_partials), stream(on));
      },
      Release());
  m.def(
      "sigmoid_losses",
      [](const ContrastiveTuple& problem, Address logit_bias, const BandTuple& of, Address row_loss, Address row_partials,
         const StreamTuple& on) {
        cuda::sigmoid_losses(contrastive(problem), array<double>(logit_bias), band(of), array<double>(row_loss),
                             array<double>(row_partials), stream(on));
      },
      Release());
  m.def(
      "sigmoid_weights",
      [](const ContrastiveTuple& problem, Address logit_bias, const BandTuple& of, Address row_weight, const WeightsTuple& to,
         Address partials, const StreamTuple& on) {
        cuda::sigmoid_weights(contrastive(problem), array<double>(logit_bias), band(of), array<void>(row_weight), weights(to),
                              array<double>(partials), stream(on));
      },
      Release());
}

void register_pairwise(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "pairwise_scores",
      [](const ScoresTuple& problem, bool condensed, const BandTuple& of, const MatrixTuple& out, const StreamTuple& on) {
        cuda::pairwise_scores(scores(problem), condensed, band(of), matrix(out), stream(on));
      },
      Release());
  m.def(
      "pairwise_weights",
      [](const ScoresTuple& problem, bool condensed, const BandTuple& of, const MatrixTuple& out_gradient,
         const WeightsTuple& to, const StreamTuple& on) {
        cuda::pairwise_weights(scores(problem), condensed, band(of), matrix(out_gradient), weights(to), stream(on));
      },
      Release());
}

void register_comparisons(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "squared_difference",
      [](const PairTuple& problem, const BandTuple& of, int transform, double epsilon, Address partials,
         const StreamTuple& on) {
        cuda::squared_difference(pairs(problem), band(of), static_cast<Transform>(transform), epsilon, array<double>(partials),
                                 stream(on));
      },
      Release());
  m.def(
      "difference_weights",
      [](const PairTuple& problem, const BandTuple& of, int transform, double epsilon, const WeightsTuple& to, Address partials,
         const StreamTuple& on) {
        cuda::difference_weights(pairs(problem), band(of), static_cast<Transform>(transform), epsilon, weights(to),
                                 array<double>(partials), stream(on));
      },
      Release());
  m.def(
      "pair_moments",
      [](const PairTuple& problem, const BandTuple& of, Address shifts, Address partials, Address c_row, Address t_row,
         Address row_workspace, const StreamTuple& on) {
        cuda::pair_moments(pairs(problem), band(of), array<double>(shifts), array<double>(partials), array<double>(c_row),
                           array<double>(t_row), array<double>(row_workspace), stream(on));
      },
      Release());
  m.def(
      "linear_weights",
      [](const PairTuple& problem, const BandTuple& of, Address coefficients, Address per_item, const WeightsTuple& to,
         const StreamTuple& on) {
        cuda::linear_weights(pairs(problem), band(of), array<double>(coefficients), array<double>(per_item), weights(to),
                             stream(on));
      },
      Release());
}

}  // namespace

void register_cuda(py::module_& parent) {
  py::module_ m = parent.def_submodule("cuda");
  register_rows(m);
  register_contrastive(m);
  register_pairwise(m);
  register_comparisons(m);
  m.attr("TILE") = cuda::kTile;
  m.attr("DEPTH_STEP") = cuda::kDepthStep;
  m.attr("ARITHMETICS") = py::dict("bfloat16"_a = static_cast<int>(cuda::Arithmetic::bfloat16),
                                   "float32"_a = static_cast<int>(cuda::Arithmetic::float32),
                                   "float64"_a = static_cast<int>(cuda::Arithmetic::float64));
  m.def("architectures", [] { return std::string(cuda::architectures()); });
  m.def("main_loop", [](int device) { return std::string(cuda::main_loop(device)); });
}

}  // namespace bindings
}  // namespace b2m

#else

namespace b2m {
namespace bindings {

void register_cuda(pybind11::module_&) {}

}  // namespace bindings
}  // namespace b2m

#endif
