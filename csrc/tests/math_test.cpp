// The functions of pair/math.h against long double libm, over their whole range, and at their special values.
#include "pair/math.h"

#include <limits>

#include "check.h"
#include "cpu/simd.h"
#include "pair/contrastive.h"
#include "pair/rsa.h"

namespace {

using namespace b2m;

/// Error in units of the last place of the expected value.
template <class T>
double units(T got, long double expected) {
  const long double size =
      std::fabs(expected) < std::numeric_limits<T>::min() ? std::numeric_limits<T>::min() : std::fabs(expected);
  int exponent = 0;
  std::frexp(size, &exponent);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - expected) /
                             std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits));
}

template <class T, class Function, class Exact>
void sweep(const char* name, T low, T high, double allowed, Function function, Exact exact) {
  double worst = 0;
  const int steps = 400000;
  for (int step = 0; step <= steps; ++step) {
    const T x = low + (high - low) * static_cast<T>(step) / static_cast<T>(steps);
    const double error = units<T>(function(x), exact(static_cast<long double>(x)));
    worst = error > worst ? error : worst;
  }
  std::printf("%s<%s> on [%g, %g]: worst error %.2f units in the last place\n", name, sizeof(T) == 4 ? "float" : "double",
              static_cast<double>(low), static_cast<double>(high), worst);
  CHECK(worst <= allowed);
}

template <class T>
void all_functions() {
  const auto exp = [](T x) { return pair::exp<T>(x); };
  const auto exact_exp = [](long double x) { return std::exp(x); };
  const T underflow = pair::MathConstants<T>::exp_underflow, overflow = pair::MathConstants<T>::exp_overflow;
  sweep<T>("exp", underflow, overflow, 2, exp, exact_exp);
  sweep<T>("exp", T(-1), T(1), 2, exp, exact_exp);
  const auto log1p = [](T x) { return pair::log1p<T>(x); };
  const auto exact_log1p = [](long double x) { return std::log1p(x); };
  sweep<T>("log1p", T(-0.999), T(1), 2.5, log1p, exact_log1p);
  sweep<T>("log1p", T(-1e-3), T(1e-3), 2.5, log1p, exact_log1p);
  sweep<T>("log1p", T(1), T(1e6), 2.5, log1p, exact_log1p);
  const auto softplus = [](T x) { return pair::softplus<T>(x); };
  const auto exact_softplus = [](long double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); };
  sweep<T>("softplus", underflow + 1, T(80), 4, softplus, exact_softplus);
  const auto sigmoid = [](T x) { return pair::sigmoid<T>(x); };
  const auto exact_sigmoid = [](long double x) { return 1 / (1 + std::exp(-x)); };
  sweep<T>("sigmoid", underflow + 1, T(80), 4, sigmoid, exact_sigmoid);
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  CHECK(pair::exp<T>(-infinity) == T(0));
  CHECK(pair::exp<T>(infinity) == infinity);
  CHECK(pair::exp<T>(T(0)) == T(1));
  CHECK(pair::exp<T>(overflow * T(1.01)) == infinity);
  CHECK(std::isnan(pair::exp<T>(nan)));
  CHECK(std::isnan(pair::log1p<T>(nan)));
  CHECK(std::isnan(pair::softplus<T>(nan)));
  CHECK(std::isnan(pair::sigmoid<T>(nan)));
  CHECK(std::isnan(pair::log1p<T>(T(-2))));
  CHECK(std::isnan(pair::atanh_difference<T>(nan, T(0.5), T(1e-5))));
  CHECK(std::isnan(pair::atanh_difference<T>(T(0.5), nan, T(1e-5))));
  CHECK(pair::softplus<T>(-infinity) == T(0));
  CHECK(pair::sigmoid<T>(-infinity) == T(0));
  CHECK(pair::sigmoid<T>(infinity) == T(1));
}

/// A vector of lanes gives bit for bit what a lane alone gives.
template <class T>
void lanes_agree() {
  using V = Vec<T, 16>;
  const std::vector<double> values = check::normal(4096, 1);
  for (std::size_t i = 0; i + V::width <= values.size(); i += V::width) {
    T x[V::width], got[V::width];
    for (int lane = 0; lane < V::width; ++lane) x[lane] = static_cast<T>(10 * values[i + static_cast<std::size_t>(lane)]);
    const auto compare = [&](V result, auto scalar) {
      result.store(got);
      for (int lane = 0; lane < V::width; ++lane) CHECK(got[lane] == scalar(x[lane]));
    };
    compare(pair::exp<V>(V::load(x)), [](T a) { return pair::exp<T>(a); });
    compare(pair::softplus<V>(V::load(x)), [](T a) { return pair::softplus<T>(a); });
    compare(pair::sigmoid<V>(V::load(x)), [](T a) { return pair::sigmoid<T>(a); });
  }
}

/// atanh_difference is F(c) - F(t), with digits to spare where c is near t, and atanh_slope its derivative.
void fisher_z() {
  const long double e = 1e-5L;
  const auto f = [&](long double x) { return 0.5L * (std::log(1 + x + e) - std::log(1 - x + e)); };
  for (const double c : {-1.0, -0.9, -0.1, 0.0, 0.3, 0.99, 1.0}) {
    for (const double t : {-0.99, -0.1, 0.0, 0.3000001, 0.9, 1.0}) {
      CHECK_NEAR(pair::atanh_difference<double>(c, t, 1e-5), static_cast<double>(f(c) - f(t)), 1e-13);
    }
    const long double h = 1e-7L;
    CHECK_NEAR(pair::atanh_slope<double>(c, 1e-5) / static_cast<double>((f(c + h) - f(c - h)) / (2 * h)), 1.0, 1e-4);
  }
  const auto single = [](double c, double t) {
    return static_cast<double>(pair::atanh_difference<float>(static_cast<float>(c), static_cast<float>(t), 1e-5f));
  };
  CHECK_NEAR(single(-1, 1), static_cast<double>(f(-1) - f(1)), 1e-6);
  CHECK_NEAR(single(1, 0.5), static_cast<double>(f(1) - f(0.5L)), 1e-6);
  CHECK_NEAR(single(0.5, 0.5 + 0x1p-20) / static_cast<double>(f(0.5L) - f(0.5L + 0x1p-20L)), 1.0, 1e-5);
}

/// A single positive leaves exactly minus the negatives' share.
void positive_weight() {
  for (const float share : {1e-30f, 1e-8f, 0.5f}) CHECK(pair::positive_weight<float>(7.25f, 7.25f, 1.0f, share) == -share);
}

}  // namespace

int main() {
  all_functions<float>();
  all_functions<double>();
  lanes_agree<float>();
  lanes_agree<double>();
  fisher_z();
  positive_weight();
  return check::report("math");
}
