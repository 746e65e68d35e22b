// exp, log1p and what follows from them, over any lane type.
//
// Cody-Waite range reduction and minimax polynomials fitted for this project (Lawson-weighted least squares at 50 digits;
// the residual of each fit stands beside its coefficients). Measured over the whole range against libm in long double by
// csrc/tests/math_test.cpp: exp and log1p within 2 units in the last place. NaN goes through; no flags, no tables, no branches.
#pragma once

#include <cstddef>

#include "pair/lanes.h"

namespace b2m {
namespace pair {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float log2_e = 1.44269504088896341f;
  static constexpr float ln2_high = 0.693359375f;  // 9 bits: n * ln2_high is exact
  static constexpr float ln2_low = -2.12194440054690583e-4f;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int mantissa_bits = 23;
  static constexpr float exp_overflow = 88.37f;   // exp gives +inf above: 127.5 ln 2, half a binade early
  static constexpr float exp_underflow = -87.0f;  // and 0 below: no denormal results
  static constexpr float infinity = __builtin_inff();
  static constexpr std::int32_t sqrt_half_bits = 0x3f3504f3;
  static constexpr std::int32_t mantissa_mask = 0x007fffff;
};

template <>
struct MathConstants<double> {
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int mantissa_bits = 52;
  static constexpr double exp_overflow = 709.43;
  static constexpr double exp_underflow = -708.0;
  static constexpr double infinity = __builtin_inf();
  static constexpr std::int64_t sqrt_half_bits = 0x3fe6a09e667f3bcd;
  static constexpr std::int64_t mantissa_mask = 0x000fffffffffffff;
};

template <class V, std::size_t kTerms>
B2M_INLINE V horner(V x, const typename Lane<V>::scalar (&coefficients)[kTerms]) {
  V sum = V(coefficients[kTerms - 1]);
  for (std::size_t term = kTerms - 1; term-- > 0;) sum = sum * x + V(coefficients[term]);
  return sum;
}

/// (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2.
template <class V>
B2M_INLINE V exp_tail(V r, float) {  // relative residual of exp: 3.1e-9
  constexpr float c[] = {0.50000001003454871f, 0.16666518993695203f, 0.041666201609450154f, 0.0083688675607808946f,
                         0.0013950478052883176f};
  return horner<V>(r, c);
}
template <class V>
B2M_INLINE V exp_tail(V r, double) {  // relative residual of exp: 3.4e-18
  constexpr double c[] = {0.5000000000000012813,    0.16666666666666694802,   0.0416666666665148222,
                          0.008333333333309573879,  0.0013888888947159173362, 0.00019841269912850098669,
                          2.4801489810665754218e-5, 2.7557219740949874976e-6, 2.7631321349948775283e-7,
                          2.5116810235212426675e-8};
  return horner<V>(r, c);
}

/// (log((1 + s)/(1 - s)) - 2 s) / s^3 as a polynomial in z = s^2, |s| <= (sqrt(2) - 1)/(sqrt(2) + 1).
template <class V>
B2M_INLINE V log_tail(V z, float) {  // residual 1.6e-9 of z
  constexpr float c[] = {0.66666776236607259f, 0.39977561486074302f, 0.29871283332857243f};
  return horner<V>(z, c);
}
template <class V>
B2M_INLINE V log_tail(V z, double) {  // residual 2.5e-18 of z
  constexpr double c[] = {0.66666666666667348251, 0.39999999999412533895, 0.28571428742845878074, 0.22222198523571016192,
                          0.18183567142956887264, 0.15313971142033615509, 0.14796823454400216946};
  return horner<V>(z, c);
}

/// exp(x).
template <class V>
B2M_INLINE V exp(V x) {
  using T = typename Lane<V>::scalar;
  using C = MathConstants<T>;
  // Clamped by select, not by max: a NaN fails both comparisons and goes through.
  V clamped = select(x > V(C::exp_overflow), V(C::exp_overflow), x);
  clamped = select(clamped < V(C::exp_underflow), V(C::exp_underflow), clamped);
  const V shifted = clamped * V(C::log2_e) + V(C::round_magic);
  const V n = shifted - V(C::round_magic);
  const V r = (clamped - n * V(C::ln2_high)) - n * V(C::ln2_low);
  const V mantissa = r * r * exp_tail<V>(r, T()) + r + V(T(1));
  // The low bits of `shifted` are the integer n: moved to the exponent they multiply by 2^n, which the bounds keep normal.
  using M = typename Lane<V>::mask;
  const M exponent = Lane<V>::shift_left(Lane<V>::to_bits(shifted), C::mantissa_bits);
  V result = Lane<V>::from_bits(static_cast<M>(Lane<V>::to_bits(mantissa) + exponent));
  result = select(x > V(C::exp_overflow), V(C::infinity), result);
  return select(x < V(C::exp_underflow), V(T(0)), result);
}

/// log(w) + correction, for normal w > 0; `correction` is added while the small part is still apart.
template <class V>
B2M_INLINE V log_corrected(V w, V correction) {
  using T = typename Lane<V>::scalar;
  using C = MathConstants<T>;
  using M = typename Lane<V>::mask;
  const M offset = static_cast<M>(Lane<V>::to_bits(w) - C::sqrt_half_bits);
  const M exponent = static_cast<M>(offset >> C::mantissa_bits);
  const V m = Lane<V>::from_bits(static_cast<M>((offset & C::mantissa_mask) + C::sqrt_half_bits));
  const V n = Lane<V>::from_integer(exponent);
  const V f = m - V(T(1));
  const V s = f / (m + V(T(1)));
  const V z = s * s;
  const V half_square = V(T(0.5)) * f * f;
  // log(1 + f) = f - f^2/2 + s (f^2/2 + z P(z)): the large part f is exact.
  const V tail = s * (half_square + z * log_tail<V>(z, T()));
  return (f - (half_square - (tail + (n * V(C::ln2_low) + correction)))) + n * V(C::ln2_high);
}

/// log(1 + x): accurate relative to the result also for small |x|; NaN for x <= -1.
template <class V>
B2M_INLINE V log1p(V x) {
  using T = typename Lane<V>::scalar;
  const V w = V(T(1)) + x;
  const V lost = x - (w - V(T(1)));  // what rounding w lost, exact for |x| < 1
  const V result = log_corrected<V>(w, lost / w);
  // Far below the rounding of 1 + x the sum above is x itself up to the square, which is what this says directly.
  const V tiny = V(T(sizeof(T) == 4 ? 1e-4 : 1e-8));
  const V series = x - V(T(0.5)) * x * x + x * x * x * V(T(1) / T(3));
  const V magnitude = select(x < V(T(0)), -x, x);
  const V defined = select(w > V(T(0)), result, V(MathConstants<T>::infinity - MathConstants<T>::infinity));
  return select(magnitude < tiny, series, defined);
}

/// log(1 + exp(x)), relative accuracy at both ends.
template <class V>
B2M_INLINE V softplus(V x) {
  using T = typename Lane<V>::scalar;
  const V zero = V(T(0));
  const V positive_part = select(x < zero, zero, x);  // NaN goes through
  const V negative_magnitude = select(x < zero, x, -x);
  return positive_part + log1p<V>(exp<V>(negative_magnitude));
}

/// 1 / (1 + exp(-x)), relative accuracy at both ends.
template <class V>
B2M_INLINE V sigmoid(V x) {
  using T = typename Lane<V>::scalar;
  const V one = V(T(1));
  const V small = exp<V>(select(x < V(T(0)), x, -x));
  const V numerator = select(x < V(T(0)), small, one);
  return numerator / (one + small);
}

}  // namespace pair
}  // namespace b2m
