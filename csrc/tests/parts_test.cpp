// Products of bfloat16 parts at every level that has them: each packing, any size, against the same product in double.
#include "cpu/parts.h"

#include <cstdlib>
#include <string>

#include "check.h"
#include "cpu/dispatch.h"

namespace {

using namespace b2m;

/// A matrix with a row stride of its own, so that reading past a row's end would be seen.
struct Values {
  std::int64_t rows, columns, stride;
  std::vector<float> data;

  Values(std::int64_t r, std::int64_t c, unsigned seed) : rows(r), columns(c), stride(c + 5), data(index(r, 0), 1e30f) {
    const std::vector<double> values = check::normal(static_cast<std::size_t>(r * c), seed);
    for (std::int64_t i = 0; i < r; ++i) {
      for (std::int64_t j = 0; j < c; ++j) data[index(i, j)] = static_cast<float>(values[static_cast<std::size_t>(i * c + j)]);
    }
  }
  std::size_t index(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * stride + j); }
  double operator()(std::int64_t i, std::int64_t j) const { return static_cast<double>(data[index(i, j)]); }
  PartsSource source(int parts) const { return {parts, data.data(), stride, rows, columns}; }
};

/// left right, where either side may be packed from its transpose; with and without adding to what is there.
void product(const PartsUnit& unit, int parts, std::int64_t n, std::int64_t k, std::int64_t m, bool left_transposed,
             bool right_transposed, double tolerance) {
  const Values left = left_transposed ? Values(k, n, 1) : Values(n, k, 1);
  const Values right = right_transposed ? Values(m, k, 2) : Values(k, m, 2);
  PackedMatrix a(parts, n, words_of(k), false), b(parts, words_of(k), m, true);
  (left_transposed ? unit.left_transposed : unit.left)(left.source(parts), a.to(0, 0));
  (right_transposed ? unit.right_transposed : unit.right)(right.source(parts), b.to(0, 0));
  const std::int64_t stride = whole_blocks(m) + 16;
  std::vector<float> c(static_cast<std::size_t>(whole_blocks(n) * stride), 3.0f);
  for (const bool accumulate : {true, false}) {
    const float before = accumulate ? c[0] : 0.0f;
    unit.product({parts, n, whole_blocks(m), words_of(k), a.from(0, 0), b.from(0, 0), c.data(), stride, accumulate});
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = 0; j < m; ++j) {
        double expected = static_cast<double>(before), size = 1 + expected;
        for (std::int64_t s = 0; s < k; ++s) {
          const double term = (left_transposed ? left(s, i) : left(i, s)) * (right_transposed ? right(j, s) : right(s, j));
          expected += term;
          size += std::fabs(term);
        }
        const double got = static_cast<double>(c[static_cast<std::size_t>(i * stride + j)]);
        check::that(std::fabs(got - expected) <= tolerance * size, "product of parts", __FILE__, __LINE__, got, expected);
      }
    }
    for (std::int64_t i = 0; i < n; ++i) CHECK(c[static_cast<std::size_t>(i * stride + whole_blocks(m))] == 3.0f);
  }
}

void all_products(const PartsUnit& unit) {
  const double tolerance[kMostParts] = {0x1p-7, 0x1p-14, 0x1p-21};
  for (int parts = 1; parts <= kMostParts; ++parts) {
    for (const bool left_transposed : {false, true}) {
      for (const bool right_transposed : {false, true}) {
        for (const std::int64_t n : {1, 8, 17, 33, 50}) {
          for (const std::int64_t m : {1, 16, 19, 40}) {
            for (const std::int64_t k : {1, 2, 31, 33, 70}) {
              product(unit, parts, n, k, m, left_transposed, right_transposed, tolerance[parts - 1]);
            }
          }
        }
        product(unit, parts, 20, 1200, 40, left_transposed, right_transposed, tolerance[parts - 1]);  // several blocks of depth
      }
    }
  }
}

/// NaN stays NaN, in its row and nowhere else; three parts hold a float's every digit.
void special_values(const PartsUnit& unit) {
  Values left(18, 40, 3), ones(1, 40, 4);
  std::fill(ones.data.begin(), ones.data.end(), 0.0f);
  ones.data[ones.index(0, 7)] = 1.0f;
  left.data[left.index(5, 7)] = std::nanf("");
  left.data[left.index(6, 7)] = 0x1.fffffep100f;
  PackedMatrix a(3, 18, 20, false), b(3, 20, 1, true);
  unit.left(left.source(3), a.to(0, 0));
  unit.right_transposed(ones.source(3), b.to(0, 0));
  std::vector<float> c(32 * 16);
  unit.product({3, 18, 16, 20, a.from(0, 0), b.from(0, 0), c.data(), 16, false});
  for (std::int64_t i = 0; i < 18; ++i) {
    CHECK_NEAR(static_cast<double>(c[static_cast<std::size_t>(i * 16)]), left(i, 7), 0);
  }
}

}  // namespace

int main() {
  for (const std::string& level : b2m::available_levels()) {
    setenv("B2M_ISA", level.c_str(), 1);
    const PartsUnit* unit = chosen_level().parts;
    if (!unit) continue;
    std::printf("level %s\n", level.c_str());
    all_products(*unit);
    special_values(*unit);
  }
  return check::report("parts");
}
