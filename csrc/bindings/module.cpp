// Python sees addresses, sizes and strides; nothing is decided here. The GIL is released around every computation.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "b2m/contrastive.h"
#include "b2m/pairwise.h"
#include "b2m/rsa.h"
#include "cpu/dispatch.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using Address = std::uintptr_t;
/// address, dtype, rows, columns, row stride, column stride
using MatrixTuple = std::tuple<Address, int, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
using OptionalMatrix = std::optional<MatrixTuple>;
/// kind, matrix, metric, gamma
using SimilaritiesTuple = std::tuple<int, MatrixTuple, int, double>;
using OptionalSimilarities = std::optional<SimilaritiesTuple>;

b2m::Matrix matrix(const MatrixTuple& from) {
  const auto& [address, dtype, rows, columns, row_stride, column_stride] = from;
  return {reinterpret_cast<void*>(address), static_cast<b2m::DType>(dtype), rows, columns, row_stride, column_stride};
}

/// A matrix that may be absent, with an address to pass on.
class MaybeMatrix {
 public:
  explicit MaybeMatrix(const OptionalMatrix& from)
      : present_(from.has_value()), matrix_(from ? matrix(*from) : b2m::Matrix{}) {}
  const b2m::Matrix* get() const { return present_ ? &matrix_ : nullptr; }

 private:
  bool present_;
  b2m::Matrix matrix_;
};

template <class T>
T* array(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class Enumeration>
int code(Enumeration value) {
  return static_cast<int>(value);
}

b2m::Scoring scoring(int metric, double gamma) { return {static_cast<b2m::Metric>(metric), gamma}; }

b2m::Similarities similarities(const SimilaritiesTuple& from) {
  const auto& [kind, data, metric, gamma] = from;
  return {static_cast<b2m::Similarities::Kind>(kind), matrix(data), scoring(metric, gamma)};
}

/// Statistics of one direction: six (or, without top1, five) arrays of `count` doubles, one after the other; address 0: none.
b2m::SoftmaxStatistics statistics(Address address, std::int64_t count, bool top1) {
  auto* at = array<double>(address);
  if (!at) return {};
  return {at, at + count, at + 2 * count, at + 3 * count, at + 4 * count, top1 ? at + 5 * count : nullptr};
}

b2m::ContrastiveProblem contrastive(const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale,
                                    Address row_label, Address column_label, int threads) {
  return {matrix(query),
          matrix(key),
          static_cast<b2m::Metric>(metric),
          logit_scale,
          array<std::int32_t>(row_label),
          array<std::int32_t>(column_label),
          threads};
}

/// Owns the copies a Comparison points to.
struct ComparisonArguments {
  b2m::Similarities weights;
  b2m::Comparison comparison;
  ComparisonArguments(std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
                      int threads)
      : weights(w ? similarities(*w) : b2m::Similarities{}),
        comparison{count, similarities(c), similarities(t), w ? &weights : nullptr, threads} {}
  ComparisonArguments(const ComparisonArguments&) = delete;
  ComparisonArguments& operator=(const ComparisonArguments&) = delete;
};

void register_pairwise(py::module_& m) {
  using Release = py::call_guard<b2m::LevelScope, py::gil_scoped_release>;
  m.def(
      "pairwise_forward",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, int layout, const MatrixTuple& out,
         int threads) {
        b2m::pairwise_forward(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), static_cast<b2m::Layout>(layout),
                              matrix(out), threads);
      },
      Release());
  m.def(
      "pairwise_backward",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, int layout, const MatrixTuple& out_gradient,
         const OptionalMatrix& dx, const OptionalMatrix& dy, int threads) {
        b2m::pairwise_backward(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), static_cast<b2m::Layout>(layout),
                               matrix(out_gradient), MaybeMatrix(dx).get(), MaybeMatrix(dy).get(), threads);
      },
      Release());
  m.def(
      "pair_list_forward",
      [](const MatrixTuple& x, Address i, Address j, std::int64_t pairs, int metric, double gamma, Address out, int threads) {
        b2m::pair_list_forward(matrix(x), array<std::int64_t>(i), array<std::int64_t>(j), pairs, scoring(metric, gamma),
                               array<double>(out), threads);
      },
      Release());
  m.def(
      "pair_list_backward",
      [](const MatrixTuple& x, Address i, Address j, std::int64_t pairs, int metric, double gamma, Address out_gradient,
         const MatrixTuple& dx, int threads) {
        b2m::pair_list_backward(matrix(x), array<std::int64_t>(i), array<std::int64_t>(j), pairs, scoring(metric, gamma),
                                array<double>(out_gradient), matrix(dx), threads);
      },
      Release());
  m.def(
      "topk",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, std::int64_t k, Address values,
         Address indices, int threads) {
        b2m::topk(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), k, array<double>(values),
                  array<std::int64_t>(indices), threads);
      },
      Release());
  m.def(
      "self_scores",
      [](const MatrixTuple& x, int metric, double gamma, Address out, int threads) {
        b2m::self_scores(matrix(x), scoring(metric, gamma), array<double>(out), threads);
      },
      Release());
}

void register_contrastive(py::module_& m) {
  using Release = py::call_guard<b2m::LevelScope, py::gil_scoped_release>;
  m.def(
      "info_nce_forward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, Address row_label,
         Address column_label, Address rows, Address columns, bool top1, int threads) {
        const auto problem = contrastive(query, key, metric, logit_scale, row_label, column_label, threads);
        b2m::info_nce_forward(problem, statistics(rows, problem.query.rows, top1), statistics(columns, problem.key.rows, top1));
      },
      Release());
  m.def(
      "info_nce_backward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, Address row_label,
         Address column_label, Address rows, Address columns, Address row_weight, Address column_weight, double label_smoothing,
         const OptionalMatrix& dquery, const OptionalMatrix& dkey, int threads) {
        const auto problem = contrastive(query, key, metric, logit_scale, row_label, column_label, threads);
        return b2m::info_nce_backward(problem, statistics(rows, problem.query.rows, false),
                                      statistics(columns, problem.key.rows, false), array<double>(row_weight),
                                      array<double>(column_weight), label_smoothing, MaybeMatrix(dquery).get(),
                                      MaybeMatrix(dkey).get());
      },
      Release());
  m.def(
      "sigmoid_forward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, double logit_bias, Address row_label,
         Address column_label, Address row_loss, int threads) {
        b2m::sigmoid_forward(contrastive(query, key, metric, logit_scale, row_label, column_label, threads), logit_bias,
                             array<double>(row_loss));
      },
      Release());
  m.def(
      "sigmoid_backward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, double logit_bias, Address row_label,
         Address column_label, Address row_weight, const OptionalMatrix& dquery, const OptionalMatrix& dkey, int threads) {
        const auto gradients =
            b2m::sigmoid_backward(contrastive(query, key, metric, logit_scale, row_label, column_label, threads), logit_bias,
                                  array<double>(row_weight), MaybeMatrix(dquery).get(), MaybeMatrix(dkey).get());
        return std::make_tuple(gradients.logit_scale, gradients.logit_bias);
      },
      Release());
}

void register_rsa(py::module_& m) {
  using Release = py::call_guard<b2m::LevelScope, py::gil_scoped_release>;
  m.def(
      "typical_score",
      [](const SimilaritiesTuple& from, std::int64_t count, int threads) {
        return b2m::typical_score(similarities(from), count, threads);
      },
      Release());
  m.def(
      "pair_moments",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         double c_shift, double t_shift, Address c_row, Address t_row, int threads) {
        const ComparisonArguments arguments(count, c, t, w, threads);
        const auto sums = b2m::pair_moments(arguments.comparison, c_shift, t_shift, array<double>(c_row), array<double>(t_row));
        return std::make_tuple(sums.w, sums.wc, sums.wt, sums.wcc, sums.wtt, sums.wct);
      },
      Release());
  m.def(
      "squared_difference",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         int transform, double epsilon, int threads) {
        const ComparisonArguments arguments(count, c, t, w, threads);
        const auto sum = b2m::squared_difference(arguments.comparison, static_cast<b2m::Transform>(transform), epsilon);
        return std::make_tuple(sum.weight, sum.total);
      },
      Release());
  m.def(
      "linear_backward",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         const std::tuple<double, double, double, double, double>& coefficients, Address per_item, Address diagonal,
         const MatrixTuple& dc, int threads) {
        const ComparisonArguments arguments(count, c, t, w, threads);
        const auto& [c_shift, t_shift, constant, of_c, of_t] = coefficients;
        b2m::linear_backward(arguments.comparison,
                             {c_shift, t_shift, constant, of_c, of_t, array<double>(per_item), array<double>(diagonal)},
                             matrix(dc));
      },
      Release());
  m.def(
      "atanh_backward",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         double epsilon, double factor, const MatrixTuple& dc, int threads) {
        const ComparisonArguments arguments(count, c, t, w, threads);
        b2m::atanh_backward(arguments.comparison, epsilon, factor, matrix(dc));
      },
      Release());
  m.def(
      "count_inversions",
      [](Address values, Address scratch, std::int64_t count) {
        return b2m::count_inversions(array<double>(values), array<double>(scratch), count);
      },
      Release());
}

std::map<std::string, std::string> build_info() {
  return {{"version", B2M_VERSION}, {"compiler", B2M_COMPILER}, {"openmp", B2M_OPENMP}, {"cuda", B2M_CUDA}};
}

}  // namespace

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  register_pairwise(m);
  register_contrastive(m);
  register_rsa(m);
  // The codes of the enumerations, so that Python does not write them down a second time.
  m.attr("METRICS") =
      py::dict("dot"_a = code(b2m::Metric::dot), "cosine"_a = code(b2m::Metric::cosine),
               "correlation"_a = code(b2m::Metric::correlation), "sqeuclidean"_a = code(b2m::Metric::sqeuclidean),
               "euclidean"_a = code(b2m::Metric::euclidean), "rbf"_a = code(b2m::Metric::rbf));
  m.attr("DTYPES") = py::dict("float64"_a = code(b2m::DType::float64), "float32"_a = code(b2m::DType::float32),
                              "bfloat16"_a = code(b2m::DType::bfloat16), "float16"_a = code(b2m::DType::float16));
  m.attr("LAYOUTS") = py::dict("full"_a = code(b2m::Layout::full), "condensed"_a = code(b2m::Layout::condensed));
  m.attr("KINDS") =
      py::dict("patterns"_a = code(b2m::Similarities::Kind::patterns), "matrix"_a = code(b2m::Similarities::Kind::matrix),
               "condensed"_a = code(b2m::Similarities::Kind::condensed));
  m.attr("TRANSFORMS") = py::dict("identity"_a = code(b2m::Transform::identity), "atanh"_a = code(b2m::Transform::atanh));
  m.def("isa_compiled", &b2m::compiled_levels);
  m.def("isa_available", &b2m::available_levels);
  m.def("isa_chosen", [] { return std::string(b2m::chosen_level().name); });
  m.def("build_info", &build_info);
}
