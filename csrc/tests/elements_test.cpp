// Half precision conversions, exhaustively, and rows of any stride.
#include "pair/elements.h"

#include <limits>

#include "check.h"

namespace {

using namespace b2m;

double exact_half(unsigned bits) {
  const double sign = bits & 0x8000u ? -1 : 1;
  const int exponent = static_cast<int>(bits >> 10 & 31u);
  const double fraction = bits & 0x3ffu;
  if (exponent == 31) return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

/// Every half-precision value is read exactly and written back to the same bits.
void round_trips() {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const Float16 half{static_cast<std::uint16_t>(bits)};
    CHECK_NEAR(static_cast<double>(widen(half)), exact_half(bits), 0);
    Float16 back;
    narrow(widen(half), back);
    CHECK(back.bits == bits || std::isnan(exact_half(bits)));
    const BFloat16 brain{static_cast<std::uint16_t>(bits)};
    BFloat16 brain_back;
    narrow(widen(brain), brain_back);
    CHECK(brain_back.bits == bits || std::isnan(widen(brain)));
    CHECK(std::isnan(widen(brain)) == std::isnan(widen(brain_back)));
  }
}

/// Between two neighbours the nearer one is chosen, and the even one half way.
void rounds_to_nearest() {
  for (unsigned bits = 0; bits < 0x7bffu; ++bits) {
    const double low = exact_half(bits), high = exact_half(bits + 1);
    const auto narrowed = [](double value) {
      Float16 half;
      narrow(static_cast<float>(value), half);
      return static_cast<unsigned>(half.bits);
    };
    CHECK(narrowed(low + 0.25 * (high - low)) == bits);
    CHECK(narrowed(low + 0.75 * (high - low)) == bits + 1);
    CHECK(narrowed(0.5 * (low + high)) == bits + (bits & 1u));
  }
  Float16 half;
  narrow(65519.0f, half);
  CHECK(half.bits == 0x7bffu);
  narrow(65520.0f, half);
  CHECK(half.bits == 0x7c00u);
}

void strided_rows() {
  double data[24];
  for (int i = 0; i < 24; ++i) data[i] = i;
  float row[3];
  read_row(Matrix{data + 23, DType::float64, 4, 3, -6, -2}, 1, 1, 2, row);
  CHECK(row[0] == 15.0f && row[1] == 13.0f);
  const float value[2] = {-1.5f, 2.5f};
  write_row(Matrix{data, DType::float64, 3, 4, 1, 3}, 2, 1, 2, value);
  CHECK(data[5] == -1.5 && data[8] == 2.5);
}

}  // namespace

int main() {
  round_trips();
  rounds_to_nearest();
  strided_rows();
  return check::report("elements");
}
