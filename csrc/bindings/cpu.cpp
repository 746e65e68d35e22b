// The CPU engine's functions. The GIL is released around every computation.
#include "b2m/contrastive.h"
#include "b2m/pairwise.h"
#include "b2m/products.h"
#include "b2m/rows.h"
#include "b2m/rsa.h"
#include "bindings/arguments.h"
#include "cpu/dispatch.h"

namespace py = pybind11;

namespace b2m {
namespace bindings {
namespace {

/// threads, precision
using ExecutorTuple = std::tuple<int, int>;

Executor executor(const ExecutorTuple& from) { return {std::get<0>(from), static_cast<Precision>(std::get<1>(from))}; }

/// kind, matrix, metric, gamma
using SimilaritiesTuple = std::tuple<int, MatrixTuple, int, double>;
using OptionalSimilarities = std::optional<SimilaritiesTuple>;

Similarities similarities(const SimilaritiesTuple& from) {
  const auto& [kind, data, metric, gamma] = from;
  return {static_cast<Similarities::Kind>(kind), matrix(data), scoring(metric, gamma)};
}

/// Statistics of one direction: six (or, without top1, five) arrays of `count` doubles, one after the other; address 0: none.
SoftmaxStatistics statistics(Address address, std::int64_t count, bool top1) {
  auto* at = array<double>(address);
  if (!at) return {};
  return {at, at + count, at + 2 * count, at + 3 * count, at + 4 * count, top1 ? at + 5 * count : nullptr};
}

ContrastiveProblem contrastive(const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale,
                               Address row_label, Address column_label, const ExecutorTuple& how) {
  return {matrix(query),
          matrix(key),
          static_cast<Metric>(metric),
          logit_scale,
          array<std::int32_t>(row_label),
          array<std::int32_t>(column_label),
          executor(how)};
}

/// Owns the copies a Comparison points to.
struct ComparisonArguments {
  Similarities weights;
  Comparison comparison;
  ComparisonArguments(std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
                      const ExecutorTuple& how)
      : weights(w ? similarities(*w) : Similarities{}),
        comparison{count, similarities(c), similarities(t), w ? &weights : nullptr, executor(how)} {}
  ComparisonArguments(const ComparisonArguments&) = delete;
  ComparisonArguments& operator=(const ComparisonArguments&) = delete;
};

void register_pairwise(py::module_& m) {
  using Release = py::call_guard<LevelScope, py::gil_scoped_release>;
  m.def(
      "pairwise_forward",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, int layout, const MatrixTuple& out,
         const ExecutorTuple& how) {
        b2m::pairwise_forward(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), static_cast<Layout>(layout), matrix(out),
                              executor(how));
      },
      Release());
  m.def(
      "pairwise_backward",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, int layout, const MatrixTuple& out_gradient,
         const OptionalMatrix& dx, const OptionalMatrix& dy, const ExecutorTuple& how) {
        b2m::pairwise_backward(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), static_cast<Layout>(layout),
                               matrix(out_gradient), MaybeMatrix(dx).get(), MaybeMatrix(dy).get(), executor(how));
      },
      Release());
  m.def(
      "pair_list_forward",
      [](const MatrixTuple& x, Address i, Address j, std::int64_t pairs, int metric, double gamma, Address out,
         const ExecutorTuple& how) {
        b2m::pair_list_forward(matrix(x), array<std::int64_t>(i), array<std::int64_t>(j), pairs, scoring(metric, gamma),
                               array<double>(out), executor(how));
      },
      Release());
  m.def(
      "pair_list_backward",
      [](const MatrixTuple& x, Address i, Address j, std::int64_t pairs, int metric, double gamma, Address out_gradient,
         const MatrixTuple& dx, const ExecutorTuple& how) {
        b2m::pair_list_backward(matrix(x), array<std::int64_t>(i), array<std::int64_t>(j), pairs, scoring(metric, gamma),
                                array<double>(out_gradient), matrix(dx), executor(how));
      },
      Release());
  m.def(
      "topk",
      [](const MatrixTuple& x, const OptionalMatrix& y, int metric, double gamma, std::int64_t k, Address values,
         Address indices, const ExecutorTuple& how) {
        b2m::topk(matrix(x), MaybeMatrix(y).get(), scoring(metric, gamma), k, array<double>(values),
                  array<std::int64_t>(indices), executor(how));
      },
      Release());
  m.def(
      "self_scores",
      [](const MatrixTuple& x, int metric, double gamma, Address out, const ExecutorTuple& how) {
        b2m::self_scores(matrix(x), scoring(metric, gamma), array<double>(out), executor(how));
      },
      Release());
  m.def(
      "add_cross_products",
      [](const MatrixTuple& a, const OptionalMatrix& b, Address sums, const ExecutorTuple& how) {
        b2m::add_cross_products(matrix(a), MaybeMatrix(b).get(), array<double>(sums), executor(how).threads);
      },
      Release());
  m.def(
      "sum_of_products",
      [](const MatrixTuple& a, const MatrixTuple& x, const MatrixTuple& b, const MatrixTuple& y, const MatrixTuple& out,
         const ExecutorTuple& how) {
        b2m::sum_of_products(matrix(a), matrix(x), matrix(b), matrix(y), matrix(out), executor(how).threads);
      },
      Release());
  m.def(
      "scaled_rows",
      [](const MatrixTuple& x, Address center, int metric, double factor, const MatrixTuple& out, const ExecutorTuple& how) {
        b2m::scaled_rows(matrix(x), array<double>(center), static_cast<Metric>(metric), factor, matrix(out),
                         executor(how).threads);
      },
      Release());
  m.def(
      "scaled_rows_backward",
      [](const MatrixTuple& gradient, const MatrixTuple& x, Address center, int metric, double factor, const MatrixTuple& dx,
         const ExecutorTuple& how) {
        return b2m::scaled_rows_backward(matrix(gradient), matrix(x), array<double>(center), static_cast<Metric>(metric),
                                         factor, matrix(dx), executor(how).threads);
      },
      Release());
}

void register_contrastive(py::module_& m) {
  using Release = py::call_guard<LevelScope, py::gil_scoped_release>;
  m.def(
      "info_nce_forward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, Address row_label,
         Address column_label, Address rows, Address columns, bool top1, const ExecutorTuple& how) {
        const auto problem = contrastive(query, key, metric, logit_scale, row_label, column_label, how);
        b2m::info_nce_forward(problem, statistics(rows, problem.query.rows, top1), statistics(columns, problem.key.rows, top1));
      },
      Release());
  m.def(
      "info_nce_backward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, Address row_label,
         Address column_label, Address rows, Address columns, Address row_weight, Address column_weight, double label_smoothing,
         const OptionalMatrix& dquery, const OptionalMatrix& dkey, const ExecutorTuple& how) {
        const auto problem = contrastive(query, key, metric, logit_scale, row_label, column_label, how);
        return b2m::info_nce_backward(problem, statistics(rows, problem.query.rows, false),
                                      statistics(columns, problem.key.rows, false), array<double>(row_weight),
                                      array<double>(column_weight), label_smoothing, MaybeMatrix(dquery).get(),
                                      MaybeMatrix(dkey).get());
      },
      Release());
  m.def(
      "sigmoid_forward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, double logit_bias, Address row_label,
         Address column_label, Address row_loss, const ExecutorTuple& how) {
        b2m::sigmoid_forward(contrastive(query, key, metric, logit_scale, row_label, column_label, how), logit_bias,
                             array<double>(row_loss));
      },
      Release());
  m.def(
      "sigmoid_backward",
      [](const MatrixTuple& query, const MatrixTuple& key, int metric, double logit_scale, double logit_bias, Address row_label,
         Address column_label, Address row_weight, const OptionalMatrix& dquery, const OptionalMatrix& dkey,
         const ExecutorTuple& how) {
        const auto gradients =
            b2m::sigmoid_backward(contrastive(query, key, metric, logit_scale, row_label, column_label, how), logit_bias,
                                  array<double>(row_weight), MaybeMatrix(dquery).get(), MaybeMatrix(dkey).get());
        return std::make_tuple(gradients.logit_scale, gradients.logit_bias);
      },
      Release());
}

void register_rsa(py::module_& m) {
  using Release = py::call_guard<LevelScope, py::gil_scoped_release>;
  m.def(
      "typical_score",
      [](const SimilaritiesTuple& from, std::int64_t count, const ExecutorTuple& how) {
        return b2m::typical_score(similarities(from), count, executor(how));
      },
      Release());
  m.def(
      "pair_moments",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         double c_shift, double t_shift, Address c_row, Address t_row, const ExecutorTuple& how) {
        const ComparisonArguments arguments(count, c, t, w, how);
        const auto sums = b2m::pair_moments(arguments.comparison, c_shift, t_shift, array<double>(c_row), array<double>(t_row));
        return std::make_tuple(sums.w, sums.wc, sums.wt, sums.wcc, sums.wtt, sums.wct);
      },
      Release());
  m.def(
      "mean_squared_difference",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         int transform, double epsilon, const OptionalMatrix& dc, const ExecutorTuple& how) {
        const ComparisonArguments arguments(count, c, t, w, how);
        return b2m::mean_squared_difference(arguments.comparison, static_cast<Transform>(transform), epsilon,
                                            MaybeMatrix(dc).get());
      },
      Release());
  m.def(
      "linear_gradient",
      [](std::int64_t count, const SimilaritiesTuple& c, const SimilaritiesTuple& t, const OptionalSimilarities& w,
         const std::tuple<double, double, double, double, double>& coefficients, Address per_item, Address diagonal,
         const MatrixTuple& dc, const ExecutorTuple& how) {
        const ComparisonArguments arguments(count, c, t, w, how);
        const auto& [c_shift, t_shift, constant, of_c, of_t] = coefficients;
        b2m::linear_gradient(arguments.comparison,
                             {c_shift, t_shift, constant, of_c, of_t, array<double>(per_item), array<double>(diagonal)},
                             matrix(dc));
      },
      Release());
  m.def(
      "count_inversions",
      [](Address values, Address scratch, std::int64_t count) {
        return b2m::count_inversions(array<double>(values), array<double>(scratch), count);
      },
      Release());
}

}  // namespace

void register_cpu(py::module_& m) {
  register_pairwise(m);
  register_contrastive(m);
  register_rsa(m);
}

}  // namespace bindings
}  // namespace b2m
