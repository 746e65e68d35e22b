// Every function of b2m/cuda.h at small odd sizes against sums in double on the host: on a device, under compute-sanitizer, or with the
// kernels executed on the host (B2M_CUDA=EMULATED). `--raw` leaves workspaces as they were allocated, for initcheck. Exits with 77 where
// there is no device.
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>

#include "tests/check.h"
#include "tests/device_arrays.h"

namespace {

using namespace device_arrays;
using b2m::DType;
using b2m::Metric;
using b2m::Scoring;
namespace cuda = b2m::cuda;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string context;  // the test that runs

/// As CHECK_NEAR, and names the test.
void near(double got, double expected, double tolerance, const char* what, int line) {
  const std::string text = context + ": " + what;
  check::that(check::near(got, expected, tolerance), text.c_str(), __FILE__, line, got, expected);
}
#define NEAR(got, expected, tolerance) near((got), (expected), (tolerance), #got, __LINE__)

cuda::Stream stream() { return settings().stream; }

bool normalises(Metric metric) { return metric == Metric::cosine || metric == Metric::correlation; }

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------
/// What prepare_rows should make of a row in place; returns 1 / norm.
double prepare(double* row, std::int64_t d, Metric metric, const double* center) {
  double mean = 0;
  for (std::int64_t k = 0; k < d; ++k) mean += (row[k] -= center ? center[k] : 0) / static_cast<double>(d);
  if (!normalises(metric)) return 1;
  for (std::int64_t k = 0; k < d; ++k) row[k] -= metric == Metric::correlation ? mean : 0;
  const double squares = dot(row, row, d);
  const double inverse = squares < 1e-20 ? 0 : 1 / std::sqrt(squares);
  for (std::int64_t k = 0; k < d; ++k) row[k] *= inverse;
  return inverse;
}

void rows(Metric metric, DType dtype, Layout layout, bool centred, const Precision& precision) {
  const std::int64_t n = 37, d = 70;
  Array values = random_array(n, d, 1);
  std::fill(values.row(3), values.row(3) + d, 0.0);
  std::fill(values.row(5), values.row(5) + d, 1.5);
  const DeviceMatrix x(values, dtype, layout);
  const std::vector<double> middle = check::normal(static_cast<std::size_t>(d), 2);
  const Memory device_middle(middle), factor(std::vector<double>{-2.5});
  const double* center = centred ? device_middle.as<double>() : nullptr;
  const Prepared prepared(x.view(), metric, center, precision);
  const DeviceMatrix incoming(random_array(n, d, 3), precision.working());
  const DeviceMatrix dx(n, d, dtype, layout);
  cuda::finish_rows(incoming.view(), x.view(), metric, center, prepared.inverse_norm(), factor.as<double>(), dx.view(),
                    stream());

  values = x.host();
  const Array g = incoming.host(), got = dx.host();
  const double stored = dtype == DType::bfloat16  ? 0x1p-7
                        : dtype == DType::float16 ? 0x1p-10
                        : dtype == DType::float32 ? 1e-5
                                                  : 0;
  const double computed = precision.is_double() && dtype == DType::float64 ? 1e-12 : 1e-5;
  for (std::int64_t i = 0; i < n; ++i) {
    double* z = values.row(i);
    const double inverse = prepare(z, d, metric, centred ? middle.data() : nullptr);
    const double along = normalises(metric) ? dot(z, g.row(i), d) : 0;
    double mean = 0;
    for (std::int64_t k = 0; k < d; ++k) {
      NEAR(prepared.elements.at(i, k), z[k], precision.rounding);
      z[k] = (g.at(i, k) - z[k] * along) * inverse;
      mean += metric == Metric::correlation ? z[k] / static_cast<double>(d) : 0;
    }
    for (std::int64_t k = d; k < prepared.elements.columns; ++k) NEAR(prepared.elements.at(i, k), 0, 0);
    for (std::int64_t k = 0; k < d; ++k) NEAR(got.at(i, k), -2.5 * (z[k] - mean), stored + computed);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights
// ---------------------------------------------------------------------------------------------------------------------
void compare(const Array& got, const Array& expected, double tolerance) {
  for (std::int64_t i = 0; i < got.rows; ++i) {
    for (std::int64_t j = 0; j < got.columns; ++j) near(got.at(i, j), expected.at(i, j), tolerance, "weight", __LINE__);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Contrastive losses
// ---------------------------------------------------------------------------------------------------------------------
/// A contrastive problem on the device and its scores on the host.
struct Pairing {
  static constexpr std::int64_t n = 150, m = 170, d = 70;
  static constexpr double scale = 7, bias = -2;
  Precision precision;
  bool labelled;
  std::int64_t first_key;  // without labels pair (i, j) is positive where i == first_key + j
  std::vector<std::int32_t> row_labels, column_labels;
  DeviceMatrix query, key;
  Prepared queries, keys;
  Memory device_row_labels, device_column_labels, device_scale, device_bias;
  cuda::Contrastive problem;
  Array scores{n, m};

  Pairing(const Precision& with, bool with_labels, std::int64_t offset = 0)
      : precision(with),
        labelled(with_labels),
        first_key(offset),
        row_labels(make_labels(n)),
        column_labels(make_labels(m)),
        query(random_array(n, d, 4), DType::float32),
        key(random_array(m, d, 5), DType::float32),
        queries(query.view(), Metric::cosine, nullptr, with),
        keys(key.view(), Metric::cosine, nullptr, with),
        device_row_labels(row_labels),
        device_column_labels(column_labels),
        device_scale(std::vector<double>{scale}),
        device_bias(std::vector<double>{bias}),
        problem{queries.rows,
                keys.rows,
                with.products,
                device_scale.as<double>(),
                labelled ? device_row_labels.as<std::int32_t>() : nullptr,
                labelled ? device_column_labels.as<std::int32_t>() : nullptr,
                first_key} {
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) {
        scores.at(i, j) = dot(queries.elements.row(i), keys.elements.row(j), queries.elements.columns);
      }
    }
  }
  bool positive(std::int64_t i, std::int64_t j) const {
    return labelled ? row_labels.data()[i] == column_labels.data()[j] : i == first_key + j;
  }
  double logit(std::int64_t i, std::int64_t j) const { return scale * scores.at(i, j); }
  double tolerance() const { return precision.tolerance; }

 private:
  static std::vector<std::int32_t> make_labels(std::int64_t count) {
    std::vector<std::int32_t> labels;
    for (std::int64_t i = 0; i < count; ++i) labels.push_back(static_cast<std::int32_t>(i * i % 61));
    return labels;
  }
};

/// One direction of a softmax: the six quantities of every row (or column), as softmax_statistics should leave them.
Array softmax_state(const Pairing& pairing, bool of_rows) {
  const std::int64_t count = of_rows ? pairing.n : pairing.m, others = of_rows ? pairing.m : pairing.n;
  Array state(cuda::kSoftmaxQuantities, count);
  for (std::int64_t i = 0; i < count; ++i) {
    double sums[2] = {0, 0}, maxima[2] = {-kInfinity, -kInfinity};
    for (std::int64_t j = 0; j < others; ++j) {
      const std::int64_t row = of_rows ? i : j, column = of_rows ? j : i;
      const double logit = pairing.logit(row, column);
      const bool positive = pairing.positive(row, column);
      sums[positive] += std::exp(logit);
      maxima[positive] = std::max(maxima[positive], logit);
      state.at(2, i) += positive ? logit : 0;
      state.at(3, i) += positive ? 1 : 0;
    }
    state.at(0, i) = std::log(sums[0]);
    state.at(1, i) = std::log(sums[1]);
    state.at(4, i) = maxima[0];
    state.at(5, i) = maxima[1];
  }
  return state;
}

std::unique_ptr<Memory> empty_state(std::int64_t count) {
  std::vector<double> values;
  for (const double value : {-kInfinity, -kInfinity, 0.0, 0.0, -kInfinity, -kInfinity}) {
    values.insert(values.end(), static_cast<std::size_t>(count), value);
  }
  return std::make_unique<Memory>(values);
}

void statistics(const Pairing& pairing, bool maxima, bool symmetric) {
  const auto row_state = empty_state(pairing.n), column_state = empty_state(pairing.m);
  const cuda::Band bands[] = {{0, 128}, {128, pairing.n}};
  for (const cuda::Band& band : bands) {
    const std::int64_t down = tiles(band.end - band.begin), across = tiles(pairing.m);
    const std::int64_t size = cuda::kSoftmaxQuantities * down * across * cuda::kTile * size_of(pairing.precision.working());
    const Memory row_partials(size, Purpose::workspace), column_partials(size, Purpose::workspace);
    cuda::softmax_statistics(pairing.problem, band, maxima, row_state->as<double>(),
                             symmetric ? column_state->as<double>() : nullptr, row_partials.get(),
                             symmetric ? column_partials.get() : nullptr, stream());
  }
  for (const bool of_rows : {true, false}) {
    if (!of_rows && !symmetric) continue;
    const Array expected = softmax_state(pairing, of_rows);
    const auto got = (of_rows ? row_state : column_state)->host<double>(cuda::kSoftmaxQuantities * expected.columns);
    for (std::int64_t quantity = 0; quantity < cuda::kSoftmaxQuantities; ++quantity) {
      if (quantity == 4 && !maxima && !pairing.labelled) continue;
      for (std::int64_t i = 0; i < expected.columns; ++i) {
        NEAR(got.data()[quantity * expected.columns + i], expected.at(quantity, i), pairing.tolerance());
      }
    }
  }
}

constexpr double kSmoothing = 0.1;

/// The six arrays that softmax_weights reads; a row without a positive has no weight.
Array softmax_side(const Array& state, std::int64_t others, unsigned seed) {
  Array side = random_array(cuda::kSoftmaxSideArrays, state.columns, seed);
  for (std::int64_t i = 0; i < state.columns; ++i) {
    const double negative = state.at(0, i), positive = state.at(1, i), count = state.at(3, i);
    side.at(0, i) = count > 0 ? side.at(0, i) : 0;
    side.at(1, i) = std::log(std::exp(negative) + std::exp(positive));
    side.at(2, i) = positive;
    side.at(3, i) = 1 / (1 + std::exp(positive - negative));
    side.at(4, i) = count > 0 ? (1 - kSmoothing) / count : 0;
    side.at(5, i) = -side.at(0, i) * kSmoothing / static_cast<double>(others);
  }
  return side;
}

void softmax_gradient(const Pairing& pairing, bool symmetric) {
  const Array row_side = softmax_side(softmax_state(pairing, true), pairing.m, 6);
  const Array column_side = softmax_side(softmax_state(pairing, false), pairing.n, 7);
  const DeviceMatrix device_rows(row_side, pairing.precision.working()),
      device_columns(column_side, pairing.precision.working());
  double by_score = 0, expected_by_score = 0;
  const Array got = gather_weights(
      pairing.n, pairing.m, 128, false, pairing.precision.working(), [&](cuda::Band band, const cuda::Weights& weights) {
        const std::int64_t count = tiles(band.end - band.begin) * tiles(pairing.m);
        const Memory partials(count * 8);
        cuda::softmax_weights(pairing.problem, band, device_rows.get(), symmetric ? device_columns.get() : nullptr, weights,
                              partials.as<double>(), stream());
        by_score += add_tiles(partials.host<double>(count).data(), band, pairing.m, false);
      });
  Array expected(pairing.n, pairing.m);
  for (std::int64_t i = 0; i < pairing.n; ++i) {
    for (std::int64_t j = 0; j < pairing.m; ++j) {
      const auto direction = [&](const Array& side, std::int64_t at) {
        const double share = std::exp(pairing.logit(i, j) - side.at(1, at)) - (pairing.positive(i, j) ? side.at(4, at) : 0);
        return side.at(0, at) * share + side.at(5, at);
      };
      expected.at(i, j) = direction(row_side, i) + (symmetric ? direction(column_side, j) : 0);
      expected_by_score += expected.at(i, j) * pairing.scores.at(i, j);
    }
  }
  compare(got, expected, pairing.tolerance());
  NEAR(by_score, expected_by_score, 10 * pairing.tolerance());
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void sigmoid_loss(const Pairing& pairing) {
  const Memory row_loss(pairing.n * 8);
  const DeviceMatrix row_weight(random_array(1, pairing.n, 8), pairing.precision.working());
  const double* bias = pairing.device_bias.as<double>();
  double sums[2] = {0, 0}, expected_sums[2] = {0, 0};
  const Array got = gather_weights(
      pairing.n, pairing.m, 128, false, pairing.precision.working(), [&](cuda::Band band, const cuda::Weights& weights) {
        const std::int64_t down = tiles(band.end - band.begin), across = tiles(pairing.m);
        const Memory row_partials(across * down * cuda::kTile * 8, Purpose::workspace), partials(2 * across * down * 8);
        cuda::sigmoid_losses(pairing.problem, bias, band, row_loss.as<double>(), row_partials.as<double>(), stream());
        cuda::sigmoid_weights(pairing.problem, bias, band, row_weight.get(), weights, partials.as<double>(), stream());
        const auto host = partials.host<double>(2 * across * down);
        for (int which = 0; which < 2; ++which)
          sums[which] += add_tiles(host.data() + which * across * down, band, pairing.m, false);
      });
  const Array weight = row_weight.host();
  const auto loss = row_loss.host<double>(pairing.n);
  Array expected(pairing.n, pairing.m);
  for (std::int64_t i = 0; i < pairing.n; ++i) {
    double total = 0;
    for (std::int64_t j = 0; j < pairing.m; ++j) {
      const double sign = pairing.positive(i, j) ? -1 : 1, l = sign * (pairing.logit(i, j) + pairing.bias);
      total += std::log1p(std::exp(l));
      expected.at(i, j) = weight.at(0, i) * sign * sigmoid(l);
      expected_sums[0] += expected.at(i, j) * pairing.scores.at(i, j);
      expected_sums[1] += expected.at(i, j);
    }
    NEAR(loss.data()[i], total, pairing.tolerance());
  }
  compare(got, expected, pairing.tolerance());
  for (int which = 0; which < 2; ++which) NEAR(sums[which], expected_sums[which], 10 * pairing.tolerance());
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores
// ---------------------------------------------------------------------------------------------------------------------
void scores(Scoring scoring, bool condensed, DType dtype, Layout layout, const Precision& precision, std::int64_t d = 35) {
  const std::int64_t n = 150, m = condensed ? n : 133;
  const DeviceMatrix x(random_array(n, d, 9), DType::float32), y(random_array(m, d, 10), DType::float32);
  const Prepared xs(x.view(), scoring.metric, nullptr, precision);
  const Prepared ys(y.view(), scoring.metric, nullptr, precision);
  const Prepared& other = condensed ? xs : ys;
  const cuda::Scores problem{xs.rows, other.rows, precision.products, scoring};
  const std::int64_t rows = condensed ? 1 : n, columns = condensed ? n * (n - 1) / 2 : m;
  const DeviceMatrix out(rows, columns, dtype, layout), incoming(random_array(rows, columns, 11), dtype, layout);
  const Array got_weights =
      gather_weights(n, m, 128, condensed, precision.working(), [&](cuda::Band band, const cuda::Weights& weights) {
        cuda::pairwise_scores(problem, condensed, band, out.view(), stream());
        cuda::pairwise_weights(problem, condensed, band, incoming.view(), weights, stream());
      });
  const Array got = out.host(), g = incoming.host();
  const double stored = dtype == DType::bfloat16 ? 0x1p-8 : dtype == DType::float16 ? 0x1p-10 : 0;
  const double single =
      dtype == DType::float64 && precision.is_double() ? precision.tolerance : std::max(precision.tolerance, 1e-6);
  Array expected(n, m);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = condensed ? i + 1 : 0; j < m; ++j) {
      const std::int64_t row = condensed ? 0 : i, column = condensed ? condensed_index(i, j, n) : j;
      const double value = raw(xs.elements, i, other.elements, j, scoring.metric);
      NEAR(got.at(row, column), score(scoring, value), stored + single);
      expected.at(i, j) = g.at(row, column) * score_derivative(scoring, value);
    }
  }
  compare(got_weights, expected, single);
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparisons
// ---------------------------------------------------------------------------------------------------------------------
/// What a side's scores come from.
enum class Kind { patterns, stored };

/// One side of a comparison: patterns, or stored values; and all its scores.
class Side {
 public:
  Side(Kind kind, std::int64_t n, std::int64_t d, const Scoring& scoring, const Precision& precision, unsigned seed)
      : values(n, n), derivatives(n, n, 1.0) {
    side_ = {{}, precision.products, scoring, nullptr, 0};
    if (kind == Kind::patterns) {
      const DeviceMatrix x(random_array(n, d, seed), DType::float32);
      rows_ = std::make_unique<Prepared>(x.view(), scoring.metric, nullptr, precision);
      side_.rows = rows_->rows;
    } else {
      Array stored = random_array(n, n, seed);
      for (double& value : stored.values) value = std::tanh(value) * std::tanh(value);
      matrix_ = std::make_unique<DeviceMatrix>(stored, precision.is_double() ? DType::float64 : DType::float32);
      side_.rows.arithmetic = precision.arithmetic;
      side_.stride = n;
    }
    const Array stored = matrix_ ? matrix_->host() : Array(0, 0);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = i + 1; j < n; ++j) {
        if (rows_) {
          const double value = raw(rows_->elements, i, rows_->elements, j, scoring.metric);
          values.at(i, j) = score(scoring, value);
          derivatives.at(i, j) = score_derivative(scoring, value);
        } else {
          values.at(i, j) = stored.at(i, j);
        }
      }
    }
  }
  /// As the kernels want it for a band: stored scores from the band's first on.
  cuda::Side of(cuda::Band band) const {
    cuda::Side side = side_;
    if (!matrix_) return side;
    const std::int64_t element = matrix_->view().dtype == DType::float64 ? 8 : 4;
    side.stored = static_cast<const char*>(matrix_->view().data) + band.begin * (side.stride + 1) * element;
    return side;
  }

 private:
  std::unique_ptr<Prepared> rows_;
  std::unique_ptr<DeviceMatrix> matrix_;
  cuda::Side side_;

 public:
  Array values, derivatives;  // i < j
};

constexpr double kEpsilon = 1e-3;
double fisher(double x) { return 0.5 * (std::log(1 + x + kEpsilon) - std::log(1 - x + kEpsilon)); }
double fisher_slope(double x) { return (1 + kEpsilon) / ((1 - x + kEpsilon) * (1 + x + kEpsilon)); }

void comparisons(Scoring scoring, Kind target, bool weighted, const Precision& precision) {
  const std::int64_t n = 290, height = 256;
  const Scoring cosine{Metric::cosine, 0};
  const Side c(Kind::patterns, n, 70, scoring, precision, 12), t(target, n, 20, cosine, precision, 13);
  const Side w(Kind::stored, n, 0, cosine, precision, 14);
  const auto problem_of = [&](cuda::Band band) {
    return cuda::PairProblem{n, c.of(band), t.of(band), weighted ? w.of(band) : cuda::Side{}};
  };
  const bool bilinear = b2m::is_bilinear(scoring.metric);  // else scores leave (-1, 1), where F ends

  const double shifts[2] = {0.05, -0.1}, constants[3] = {0.3, -0.7, 1.1};
  const Memory device_shifts(std::vector<double>{shifts[0], shifts[1]});
  const Memory coefficients(std::vector<double>{shifts[0], shifts[1], constants[0], constants[1], constants[2]});
  const std::vector<double> items = check::normal(static_cast<std::size_t>(n), 15);
  const Memory per_item(items);
  const Memory c_row(std::vector<double>(static_cast<std::size_t>(n), 0.0)),
      t_row(std::vector<double>(static_cast<std::size_t>(n), 0.0));

  double moments[6] = {}, only_sums[2] = {}, identity[2] = {}, atanh[2] = {};
  const auto of_band = [&](cuda::Band band, int arrays, double* totals, const std::function<void(double*)>& run) {
    const std::int64_t count = tiles(band.end - band.begin) * tiles(n - band.begin);
    const Memory partials(arrays * count * 8);
    run(partials.as<double>());
    const auto host = partials.host<double>(arrays * count);
    for (int which = 0; which < arrays; ++which) totals[which] += add_tiles(host.data() + which * count, band, n, true);
  };
  const Array linear =
      gather_weights(n, n, height, true, precision.working(), [&](cuda::Band band, const cuda::Weights& weights) {
        const std::int64_t across = tiles(n - band.begin);
        const Memory workspace(4 * across * across * cuda::kTile * 8, Purpose::workspace);
        of_band(band, 6, moments, [&](double* partials) {
          const bool sums = !weighted;
          cuda::pair_moments(problem_of(band), band, device_shifts.as<double>(), partials, sums ? c_row.as<double>() : nullptr,
                             sums ? t_row.as<double>() : nullptr, sums ? workspace.as<double>() : nullptr, stream());
        });
        of_band(band, 2, only_sums, [&](double* partials) {
          cuda::squared_difference(problem_of(band), band, b2m::Transform::identity, kEpsilon, partials, stream());
        });
        cuda::linear_weights(problem_of(band), band, coefficients.as<double>(), weighted ? nullptr : per_item.as<double>(),
                             weights, stream());
      });

  double expected[6] = {}, difference = 0, fisher_difference = 0;
  Array expected_linear(n, n), expected_identity(n, n), expected_atanh(n, n), rows(2, n);
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t j = i + 1; j < n; ++j) {
      const double weight = weighted ? w.values.at(i, j) : 1, cv = c.values.at(i, j), tv = t.values.at(i, j);
      const double cs = cv - shifts[0], ts = tv - shifts[1], items_ij = weighted ? 0 : items.data()[i] + items.data()[j];
      const double terms[6] = {1, cs, ts, cs * cs, ts * ts, cs * ts};
      for (int which = 0; which < 6; ++which) expected[which] += weight * terms[which];
      for (const std::int64_t at : {i, j}) {
        rows.at(0, at) += cs;
        rows.at(1, at) += ts;
      }
      difference += weight * (cv - tv) * (cv - tv);
      const double slope = c.derivatives.at(i, j);
      expected_linear.at(i, j) = (weight * (constants[0] + constants[1] * cs + constants[2] * ts) + items_ij) * slope;
      expected_identity.at(i, j) = weight * 2 * (cv - tv) * slope;
      if (!bilinear) continue;
      const double apart = fisher(cv) - fisher(tv);
      fisher_difference += weight * apart * apart;
      expected_atanh.at(i, j) = weight * 2 * apart * fisher_slope(cv) * slope;
    }
  }
  for (int which = 0; which < 6; ++which) NEAR(moments[which], expected[which], precision.tolerance);
  NEAR(only_sums[0], expected[0], precision.tolerance);
  NEAR(only_sums[1], difference, precision.tolerance);
  compare(linear, expected_linear, precision.tolerance);
  if (!weighted) {
    const auto got_c = c_row.host<double>(n), got_t = t_row.host<double>(n);
    for (std::int64_t i = 0; i < n; ++i) {
      NEAR(got_c.data()[i], rows.at(0, i), precision.tolerance);
      NEAR(got_t.data()[i], rows.at(1, i), precision.tolerance);
    }
  }
  const auto slopes_of = [&](b2m::Transform transform, double* sums) {
    return gather_weights(n, n, height, true, precision.working(), [&](cuda::Band band, const cuda::Weights& weights) {
      of_band(band, 2, sums, [&](double* partials) {
        cuda::difference_weights(problem_of(band), band, transform, kEpsilon, weights, partials, stream());
      });
    });
  };
  const Array identity_slopes = slopes_of(b2m::Transform::identity, identity);
  compare(identity_slopes, expected_identity, 10 * precision.tolerance);
  for (int which = 0; which < 2; ++which) NEAR(identity[which], only_sums[which], precision.tolerance);
  if (!bilinear) return;
  const Array atanh_slopes = slopes_of(b2m::Transform::atanh, atanh);
  NEAR(atanh[0], expected[0], precision.tolerance);
  NEAR(atanh[1], fisher_difference, precision.tolerance);
  compare(atanh_slopes, expected_atanh, 10 * precision.tolerance);
}

// ---------------------------------------------------------------------------------------------------------------------
void run(const std::string& name, const std::function<void()>& test) {
  context = name;
  const int before = check::failures();
  try {
    test();
  } catch (const std::exception& error) {
    ++check::failures();
    std::printf("%s: %s\n", name.c_str(), error.what());
  }
  if (check::failures() > before) std::printf("%s: FAILED\n", name.c_str());
  std::fflush(stdout);
}

void run_all() {
  for (const Metric metric : {Metric::dot, Metric::cosine, Metric::correlation}) {
    const std::string name = "rows, metric " + std::to_string(static_cast<int>(metric));
    run(name + ", float32", [&] { rows(metric, DType::float32, Layout::plain, false, kFloat32); });
    run(name + ", float64", [&] { rows(metric, DType::float64, Layout::strange, true, kFloat64); });
    run(name + ", bfloat16", [&] { rows(metric, DType::bfloat16, Layout::plain, false, kBFloat16); });
    run(name + ", float16", [&] { rows(metric, DType::float16, Layout::strange, true, kTwoParts); });
    run(name + ", 3 parts", [&] { rows(metric, DType::float32, Layout::strange, true, kThreeParts); });
  }
  for (const Precision& precision : {kBFloat16, kTwoParts, kThreeParts, kFloat32, kFloat64}) {
    const std::string name = std::string(", ") + precision.name;
    for (const bool labelled : {false, true}) {
      const Pairing pairing(precision, labelled);
      const std::string what = labelled ? " with labels" : "";
      run("softmax_statistics" + what + name, [&] { statistics(pairing, labelled, true); });
      run("softmax_statistics, one-way, maxima" + what + name, [&] { statistics(pairing, true, false); });
      run("softmax_weights" + what + name, [&] { softmax_gradient(pairing, true); });
      run("softmax_weights, one-way" + what + name, [&] { softmax_gradient(pairing, false); });
      run("sigmoid" + what + name, [&] { sigmoid_loss(pairing); });
    }
    const Pairing block(precision, false, 19);
    run("softmax_statistics of a block" + name, [&] { statistics(block, false, true); });
    run("softmax_weights of a block" + name, [&] { softmax_gradient(block, true); });
    const Scoring cosine{Metric::cosine, 0};
    run("pairwise" + name, [&] { scores(cosine, false, DType::float32, Layout::plain, precision); });
    // More stages than a ring has, so that each is filled again while others are read.
    run("pairwise, deep" + name, [&] { scores(cosine, false, DType::float32, Layout::plain, precision, 600); });
    run("pairwise, condensed" + name, [&] { scores(cosine, true, DType::float64, Layout::plain, precision); });
    run("pairwise, bfloat16 out" + name, [&] { scores(cosine, false, DType::bfloat16, Layout::strange, precision); });
    run("comparisons with patterns" + name, [&] { comparisons(cosine, Kind::patterns, false, precision); });
    run("weighted comparisons with a matrix" + name, [&] { comparisons(cosine, Kind::stored, true, precision); });
    run("comparisons with a matrix" + name, [&] { comparisons(cosine, Kind::stored, false, precision); });
    if (precision.is(cuda::Arithmetic::bfloat16)) continue;
    for (const Scoring scoring : {Scoring{Metric::sqeuclidean, 0}, Scoring{Metric::euclidean, 0}, Scoring{Metric::rbf, 0.02}}) {
      const std::string metric = ", metric " + std::to_string(static_cast<int>(scoring.metric)) + name;
      run("pairwise" + metric, [&] { scores(scoring, false, DType::float32, Layout::plain, precision); });
      run("pairwise, condensed" + metric, [&] { scores(scoring, true, DType::float16, Layout::strange, precision); });
      run("comparisons" + metric, [&] { comparisons(scoring, Kind::patterns, true, precision); });
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  settings().raw_workspaces = count > 1 && std::strcmp(arguments[1], "--raw") == 0;
  if (!open_device()) {
    std::puts("cuda_smoke: no CUDA device");
    return 77;
  }
  std::printf("cuda_smoke: %s, main loop %s\n", cuda::architectures(), cuda::main_loop(0));
  run_all();
  return check::report("cuda_smoke");
}
