// Sums over the values of a row, in double.
#pragma once

#include <cstdint>

namespace b2m {

/// a . b. Eight partial sums, added in a fixed order: one alone would wait for every addition before the next.
template <class A, class B>
double dot(const A* a, const B* b, std::int64_t count) {
  double part[8] = {};
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    for (std::int64_t lane = 0; lane < 8; ++lane)
      part[lane] += static_cast<double>(a[k + lane]) * static_cast<double>(b[k + lane]);
  }
  for (; k < count; ++k) part[0] += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

}  // namespace b2m
