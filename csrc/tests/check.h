// Just enough of a test framework: CHECK prints what failed and where; main returns failures().
#pragma once

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace check {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void that(bool holds, const char* text, const char* file, int line, double got, double expected) {
  if (holds) return;
  ++failures();
  if (failures() <= 20) std::printf("%s:%d: %s (got %.17g, expected %.17g)\n", file, line, text, got, expected);
}

/// |got - expected| <= tolerance (1 + |expected|), and NaN where NaN is expected.
inline bool near(double got, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(got);
  if (std::isinf(expected)) return got == expected;
  return std::fabs(got - expected) <= tolerance * (1 + std::fabs(expected));
}

inline int report(const char* name) {
  std::printf("%s: %s\n", name, failures() ? "FAILED" : "passed");
  return failures() ? 1 : 0;
}

/// Standard normal values; the same on every run.
inline std::vector<double> normal(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> distribution;
  std::vector<double> values(count);
  for (double& value : values) value = distribution(generator);
  return values;
}

}  // namespace check

#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__, 0, 1)
#define CHECK_NEAR(got, expected, tolerance) \
  check::that(check::near((got), (expected), (tolerance)), #got, __FILE__, __LINE__, (got), (expected))
