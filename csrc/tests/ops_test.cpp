// Every op at every instruction level this machine runs, against the definition in double: odd sizes, any strides, several threads,
// and guarded outputs. Built with the sanitizers in continuous integration.
#include <cstdlib>
#include <limits>
#include <string>

#include "b2m/contrastive.h"
#include "b2m/pairwise.h"
#include "b2m/products.h"
#include "b2m/rows.h"
#include "b2m/rsa.h"
#include "check.h"
#include "cpu/dispatch.h"

namespace {

using namespace b2m;

constexpr double kGuard = 12345.0;

/// Rows in a buffer of odd strides, with guards around.
template <class T>
class Patterns {
 public:
  Patterns(std::int64_t rows, std::int64_t columns, unsigned seed) : rows_(rows), columns_(columns), stride_(2 * columns + 3) {
    values = check::normal(static_cast<std::size_t>(rows * columns), seed);
    for (double& value : values) value = static_cast<double>(static_cast<T>(value));
    storage_.assign(static_cast<std::size_t>(rows * stride_ + 16), static_cast<T>(kGuard));
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t k = 0; k < columns; ++k) storage_[at(i, k)] = static_cast<T>(values[index(i, k)]);
    }
  }
  Matrix matrix() {
    return {storage_.data() + 5, sizeof(T) == 8 ? DType::float64 : DType::float32, rows_, columns_, stride_, 2};
  }
  double operator()(std::int64_t i, std::int64_t k) const { return values[index(i, k)]; }
  double stored(std::int64_t i, std::int64_t k) const { return static_cast<double>(storage_[at(i, k)]); }
  void check_guards() const {
    for (std::size_t s = 0; s < storage_.size(); ++s) {
      const auto offset = static_cast<std::int64_t>(s) - 5;
      const bool inside =
          offset >= 0 && offset / stride_ < rows_ && offset % stride_ < 2 * columns_ && offset % stride_ % 2 == 0;
      if (!inside) CHECK(storage_[s] == static_cast<T>(kGuard));
    }
  }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }

 private:
  std::size_t index(std::int64_t i, std::int64_t k) const { return static_cast<std::size_t>(i * columns_ + k); }
  std::size_t at(std::int64_t i, std::int64_t k) const { return static_cast<std::size_t>(5 + i * stride_ + 2 * k); }
  std::vector<double> values;
  std::int64_t rows_, columns_, stride_;
  std::vector<T> storage_;
};

template <class T>
double exact_score(const Patterns<T>& x, std::int64_t i, const Patterns<T>& y, std::int64_t j, Metric metric) {
  double xy = 0, xx = 0, yy = 0, q = 0, x_mean = 0, y_mean = 0;
  for (std::int64_t k = 0; k < x.columns(); ++k) {
    x_mean += x(i, k) / static_cast<double>(x.columns());
    y_mean += y(j, k) / static_cast<double>(x.columns());
  }
  if (metric != Metric::correlation) x_mean = y_mean = 0;
  for (std::int64_t k = 0; k < x.columns(); ++k) {
    const double a = x(i, k) - x_mean, b = y(j, k) - y_mean;
    xy += a * b;
    xx += a * a;
    yy += b * b;
    q += (a - b) * (a - b);
  }
  switch (metric) {
    case Metric::dot:
      return xy;
    case Metric::cosine:
    case Metric::correlation:
      return xy / std::sqrt(xx * yy);
    case Metric::sqeuclidean:
      return q;
    case Metric::euclidean:
      return std::sqrt(q);
    case Metric::rbf:
      return std::exp(-0.3 * q);
  }
  return 0;
}

template <class T>
void pairwise(std::int64_t n, std::int64_t m, std::int64_t d, Executor executor, double tolerance) {
  Patterns<T> x(n, d, 1), y(m, d, 2), out(n, m, 3), dx(n, d, 4), dy(m, d, 5);
  for (const Metric metric :
       {Metric::dot, Metric::cosine, Metric::correlation, Metric::sqeuclidean, Metric::euclidean, Metric::rbf}) {
    if (metric == Metric::correlation && d < 3) continue;
    const Matrix key = y.matrix();
    const Scoring scoring{metric, 0.3};
    pairwise_forward(x.matrix(), &key, scoring, Layout::full, out.matrix(), executor);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) CHECK_NEAR(out.stored(i, j), exact_score(x, i, y, j, metric), tolerance);
    }
    // Gradient of the sum of all scores, checked by a difference quotient along one direction of x.
    Patterns<T> ones(n, m, 6);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) static_cast<T*>(ones.matrix().data)[i * ones.matrix().row_stride + 2 * j] = T(1);
    }
    const Matrix to_x = dx.matrix(), to_y = dy.matrix();
    pairwise_backward(x.matrix(), &key, scoring, Layout::full, ones.matrix(), &to_x, &to_y, executor);
    double along = 0, total = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t k = 0; k < d; ++k) along += dx.stored(i, k) * x(i, k);
    }
    for (std::int64_t j = 0; j < m; ++j) {
      for (std::int64_t k = 0; k < d; ++k) along += dy.stored(j, k) * y(j, k);
    }
    // Euler: scaling x and y together scales the scores by their degree (rbf has none).
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) {
        const double score = exact_score(x, i, y, j, metric);
        total += metric == Metric::dot || metric == Metric::sqeuclidean ? 2 * score
                 : metric == Metric::euclidean                          ? score
                 : metric == Metric::rbf                                ? 2 * score * std::log(score)
                                                                        : 0;
      }
    }
    CHECK_NEAR(along / static_cast<double>(n * m), total / static_cast<double>(n * m), 20 * tolerance);
  }
  for (Patterns<T>* patterns : {&x, &y, &out, &dx, &dy}) patterns->check_guards();
}

template <class T>
void condensed_and_best(std::int64_t n, std::int64_t d, Executor executor, double tolerance) {
  Patterns<T> x(n, d, 7);
  std::vector<T> out(static_cast<std::size_t>(n * (n - 1) / 2 + 1), static_cast<T>(kGuard));
  const DType dtype = sizeof(T) == 8 ? DType::float64 : DType::float32;
  pairwise_forward(x.matrix(), nullptr, {Metric::euclidean, 0}, Layout::condensed,
                   Matrix{out.data(), dtype, 1, n * (n - 1) / 2, 0, 1}, executor);
  std::size_t p = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i + 1; j < n; ++j) {
      CHECK_NEAR(static_cast<double>(out[p]), exact_score(x, i, x, j, Metric::euclidean), tolerance);
      ++p;
    }
  }
  CHECK(out[p] == static_cast<T>(kGuard));
  if (n < 3) return;
  std::vector<double> values(static_cast<std::size_t>(2 * n));
  std::vector<std::int64_t> indices(static_cast<std::size_t>(2 * n));
  topk(x.matrix(), nullptr, {Metric::cosine, 0}, 2, values.data(), indices.data(), executor);
  for (std::int64_t i = 0; i < n; ++i) {
    double best = -2;
    for (std::int64_t j = 0; j < n; ++j) best = i == j ? best : std::max(best, exact_score(x, i, x, j, Metric::cosine));
    CHECK_NEAR(values[static_cast<std::size_t>(2 * i)], best, tolerance);
    CHECK(indices[static_cast<std::size_t>(2 * i)] != i && indices[static_cast<std::size_t>(2 * i + 1)] != i);
  }
}

/// InfoNCE and the sigmoid loss on the diagonal and with labels, forward against the definition, backward by scaling.
template <class T>
void contrastive(std::int64_t n, std::int64_t m, std::int64_t d, bool labelled, Executor executor, double tolerance) {
  Patterns<T> q(n, d, 8), k(m, d, 9), dq(n, d, 10), dk(m, d, 11);
  std::vector<std::int32_t> row(static_cast<std::size_t>(n)), column(static_cast<std::size_t>(m));
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<std::int32_t>(i % 7);
  for (std::size_t j = 0; j < column.size(); ++j) column[j] = static_cast<std::int32_t>(j % 5);
  const double scale = 1.7;
  const ContrastiveProblem problem{
      q.matrix(), k.matrix(), Metric::cosine, scale, labelled ? row.data() : nullptr, labelled ? column.data() : nullptr,
      executor};
  std::vector<double> r(static_cast<std::size_t>(6 * n)), c(static_cast<std::size_t>(6 * m));
  const auto statistics = [](std::vector<double>& at, std::int64_t count) {
    double* p = at.data();
    return SoftmaxStatistics{p, p + count, p + 2 * count, p + 3 * count, p + 4 * count, p + 5 * count};
  };
  const SoftmaxStatistics rows = statistics(r, n), columns = statistics(c, m);
  info_nce_forward(problem, rows, columns);
  const auto positive = [&](std::int64_t i, std::int64_t j) {
    return labelled ? row[static_cast<std::size_t>(i)] == column[static_cast<std::size_t>(j)] : i == j;
  };
  double loss_slope = 0;  // d loss / d scale
  std::vector<double> weight(static_cast<std::size_t>(n)), none(static_cast<std::size_t>(m), 0.0);
  for (std::int64_t i = 0; i < n; ++i) {
    double negative_sum = 0, positive_sum = 0, mean = 0, count = 0, all = 0, all_slope = 0;
    for (std::int64_t j = 0; j < m; ++j) {
      const double s = exact_score(q, i, k, j, Metric::cosine), l = scale * s;
      (positive(i, j) ? positive_sum : negative_sum) += std::exp(l);
      all += std::exp(l);
      all_slope += s * std::exp(l);
      mean += positive(i, j) ? s : 0;
      count += positive(i, j) ? 1 : 0;
    }
    CHECK_NEAR(rows.negative_lse[i], std::log(negative_sum), tolerance);
    CHECK_NEAR(rows.positive_lse[i], std::log(positive_sum), tolerance);
    CHECK(rows.positive_count[i] == count);
    if (count > 0) {
      CHECK_NEAR(rows.positive_mean[i], scale * mean / count, tolerance);
      weight[static_cast<std::size_t>(i)] = 0.5;
      loss_slope += 0.5 * (all_slope / all - mean / count);
    }
  }
  const Matrix to_q = dq.matrix(), to_k = dk.matrix();
  const double slope = info_nce_backward(problem, rows, columns, weight.data(), none.data(), 0, &to_q, &to_k);
  CHECK_NEAR(slope, loss_slope, 20 * tolerance);
  for (std::int64_t i = 0; i < n; ++i) {  // the cosine does not change along its own row
    double along = 0;
    for (std::int64_t kk = 0; kk < d; ++kk) along += dq.stored(i, kk) * q(i, kk);
    CHECK_NEAR(along, 0.0, 20 * tolerance);
  }
  std::vector<double> loss(static_cast<std::size_t>(n));
  sigmoid_forward(problem, -0.5, loss.data());
  double bias_slope = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    double expected = 0;
    for (std::int64_t j = 0; j < m; ++j) {
      const double l = scale * exact_score(q, i, k, j, Metric::cosine) - 0.5;
      expected += std::log1p(std::exp(positive(i, j) ? -l : l));
      bias_slope += weight[static_cast<std::size_t>(i)] * (1 / (1 + std::exp(-l)) - (positive(i, j) ? 1 : 0));
    }
    CHECK_NEAR(loss[static_cast<std::size_t>(i)], expected, tolerance);
  }
  const ScalarGradients scalars = sigmoid_backward(problem, -0.5, weight.data(), &to_q, &to_k);
  CHECK_NEAR(scalars.logit_bias, bias_slope, 20 * tolerance);
  for (Patterns<T>* patterns : {&q, &k, &dq, &dk}) patterns->check_guards();
}

template <class T>
void comparisons(std::int64_t n, std::int64_t d, Executor executor, double tolerance) {
  Patterns<T> x(n, d, 12), t(n, 3, 13), w(n, n, 14), dx(n, d, 15);
  const Similarities weights{Similarities::Kind::matrix, w.matrix(), {Metric::dot, 0}};
  const Comparison comparison{n,
                              {Similarities::Kind::patterns, x.matrix(), {Metric::cosine, 0}},
                              {Similarities::Kind::patterns, t.matrix(), {Metric::cosine, 0}},
                              &weights,
                              executor};
  double total = 0, weight = 0, cross = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i + 1; j < n; ++j) {
      const double a = exact_score(x, i, x, j, Metric::cosine), b = exact_score(t, i, t, j, Metric::cosine);
      const double difference = std::atanh(a / 1.5) - std::atanh(b / 1.5);  // epsilon 0.5: F(x) = atanh(x / 1.5)
      total += w(i, j) * difference * difference;
      weight += w(i, j);
      cross += w(i, j) * (a - 0.1) * (b - 0.2);
    }
  }
  const double pairs = static_cast<double>(n * (n - 1) / 2 + 1);
  const Matrix to = dx.matrix();
  for (const Matrix* wanted : {static_cast<const Matrix*>(nullptr), &to}) {
    const double mean = mean_squared_difference(comparison, Transform::atanh, 0.5, wanted);
    CHECK_NEAR(mean, weight == 0 ? 0 : total / weight, 8 * tolerance);
  }
  const PairMoments moments = pair_moments(comparison, 0.1, 0.2, nullptr, nullptr);
  CHECK_NEAR(moments.wct / pairs, cross / pairs, tolerance);
  std::vector<double> item(static_cast<std::size_t>(n), 0.25);
  linear_gradient({n, comparison.c, comparison.t, nullptr, executor}, {0.1, 0.2, 1.0, 0.5, -0.5, item.data(), item.data()},
                  dx.matrix());
  for (Patterns<T>* patterns : {&x, &t, &w, &dx}) patterns->check_guards();
}

/// Rows for mixtures of layers, and the products of comparisons in feature space.
template <class T>
void features(std::int64_t n, std::int64_t p, std::int64_t q, int threads, double tolerance) {
  Patterns<T> a(n, p, 20), b(n, q, 21), x(p, q, 22), y(q, q, 23), out(n, q, 24), scaled(n, p, 25), da(n, p, 26);
  // A narrower matrix over the same memory is not the same matrix.
  Matrix narrow = a.matrix();
  narrow.columns = (p + 1) / 2;
  std::vector<double> of_part(static_cast<std::size_t>(p * narrow.columns), 0.0);
  add_cross_products(a.matrix(), &narrow, of_part.data(), threads);
  std::vector<double> sums(static_cast<std::size_t>(p * q), 0.5), squares(static_cast<std::size_t>(p * p), 0.0);
  const Matrix right = b.matrix();
  add_cross_products(a.matrix(), &right, sums.data(), threads);
  add_cross_products(a.matrix(), nullptr, squares.data(), threads);
  sum_of_products(a.matrix(), x.matrix(), b.matrix(), y.matrix(), out.matrix(), threads);
  const auto cross = [&](const Patterns<T>& other, std::int64_t i, std::int64_t j) {
    double sum = 0;
    for (std::int64_t row = 0; row < n; ++row) sum += a(row, i) * other(row, j);
    return sum;
  };
  for (std::int64_t i = 0; i < p; ++i) {
    for (std::int64_t j = 0; j < q; ++j) {
      CHECK_NEAR(sums[static_cast<std::size_t>(i * q + j)], 0.5 + cross(b, i, j), static_cast<double>(n) * tolerance);
    }
    for (std::int64_t j = 0; j < p; ++j) {
      CHECK_NEAR(squares[static_cast<std::size_t>(i * p + j)], cross(a, i, j), static_cast<double>(n) * tolerance);
    }
    for (std::int64_t j = 0; j < narrow.columns; ++j) {
      CHECK_NEAR(of_part[static_cast<std::size_t>(i * narrow.columns + j)], cross(a, i, j), static_cast<double>(n) * tolerance);
    }
  }
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = 0; j < q; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < p; ++k) sum += a(i, k) * x(k, j);
      for (std::int64_t k = 0; k < q; ++k) sum += b(i, k) * y(k, j);
      CHECK_NEAR(out.stored(i, j), sum, static_cast<double>(p + q) * tolerance);
    }
  }
  const std::vector<double> center = check::normal(static_cast<std::size_t>(p), 27);
  scaled_rows(a.matrix(), center.data(), Metric::cosine, 0.7, scaled.matrix(), threads);
  // The sum of scaled rows times fixed weights: of degree 0 in a - center, and linear in the factor.
  const double of_factor =
      scaled_rows_backward(scaled.matrix(), a.matrix(), center.data(), Metric::cosine, 0.7, da.matrix(), threads);
  CHECK_NEAR(of_factor, 0.7 * static_cast<double>(n), static_cast<double>(n) * tolerance);
  for (std::int64_t i = 0; i < n; ++i) {
    double square = 0, along = 0;
    for (std::int64_t k = 0; k < p; ++k) {
      square += scaled.stored(i, k) * scaled.stored(i, k);
      along += da.stored(i, k) * (a(i, k) - center[static_cast<std::size_t>(k)]);
    }
    CHECK_NEAR(square, 0.49, tolerance);
    CHECK_NEAR(along, 0, tolerance);
  }
  for (Patterns<T>* patterns : {&a, &b, &x, &y, &out, &scaled, &da}) patterns->check_guards();
}

void inversions() {
  std::vector<double> values = check::normal(777, 16), scratch(777), original = values;
  std::int64_t expected = 0;
  for (std::size_t a = 0; a < original.size(); ++a) {
    for (std::size_t b = a + 1; b < original.size(); ++b) expected += original[a] > original[b] ? 1 : 0;
  }
  CHECK(count_inversions(values.data(), scratch.data(), 777) == expected);
}

template <class T>
void all_ops(Precision precision, double tolerance) {
  for (const Executor executor : {Executor{1, precision}, Executor{3, precision}}) {
    for (const std::int64_t n : {1, 2, 17, 130}) {  // 130 x 263: more than one tile each way
      for (const std::int64_t d : {1, 5, 33}) {
        pairwise<T>(n, 2 * n + 3, d, executor, tolerance);
        condensed_and_best<T>(n, d, executor, tolerance);
        contrastive<T>(n, n + 5, d, false, executor, tolerance);
        contrastive<T>(n, 2 * n, d, true, executor, tolerance);
        if (d > 1) comparisons<T>(n, d, executor, tolerance);
      }
    }
    // So deep that every unit for bfloat16 parts is used.
    pairwise<T>(70, 130, 100, executor, tolerance);
    contrastive<T>(130, 140, 100, true, executor, tolerance);
    comparisons<T>(130, 100, executor, tolerance);
    condensed_and_best<T>(270, 5, executor, tolerance);
    comparisons<T>(270, 5, executor, tolerance);
    contrastive<T>(520, 560, 3, true, executor, tolerance);  // so many that they are taken in the order of their labels
    for (const std::int64_t p : {1, 5, 17, 33, 130}) features<T>(3 * p, p, 140 - p, executor.threads, tolerance);
  }
}

}  // namespace

int main() {
  for (const std::string& level : b2m::available_levels()) {
    setenv("B2M_ISA", level.c_str(), 1);
    CHECK(level == b2m::chosen_level().name);
    std::printf("level %s\n", level.c_str());
    all_ops<float>(Precision::highest, 2e-5);
    all_ops<double>(Precision::highest, 1e-12);
    if (b2m::chosen_level().parts) {
      all_ops<float>(Precision::high, 5e-4);
      all_ops<float>(Precision::medium, 2e-1);
    }
  }
  inversions();
  return check::report("ops");
}
