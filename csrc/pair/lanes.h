// What a pair formula may assume of its lane type.
//
// A formula is a template over a lane type V: the CPU engine passes a vector of lanes (cpu/simd.h), a GPU engine or a test
// passes plain float or double. Beside the arithmetic operators it uses `select(mask, yes, no)`, `square_root(V)`, and the bit
// access gathered in `Lane<V>`; this file supplies them for the plain scalars.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define B2M_INLINE __host__ __device__ __forceinline__
#else
#define B2M_INLINE inline __attribute__((always_inline))
#endif

namespace b2m {

B2M_INLINE float select(bool condition, float yes, float no) { return condition ? yes : no; }
B2M_INLINE double select(bool condition, double yes, double no) { return condition ? yes : no; }
B2M_INLINE float square_root(float a) { return __builtin_sqrtf(a); }
B2M_INLINE double square_root(double a) { return __builtin_sqrt(a); }

/// Scalar type, integer type of the same size, and bit access of a lane type.
template <class V>
struct Lane {
  using scalar = typename V::scalar;
  using integer = typename V::integer;
  using mask = typename V::mask;
  static B2M_INLINE mask to_bits(V a) { return bits(a); }
  static B2M_INLINE V from_bits(mask a) { return V::from_bits(a); }
  static B2M_INLINE V from_integer(mask a) { return V::from_integer(a); }
  static B2M_INLINE mask shift_left(mask a, int places) { return a << places; }
};

namespace detail {
template <class T, class I>
struct ScalarLane {
  using scalar = T;
  using integer = I;
  using mask = I;
  static B2M_INLINE I to_bits(T a) {
    I out;
    __builtin_memcpy(&out, &a, sizeof(T));
    return out;
  }
  static B2M_INLINE T from_bits(I a) {
    T out;
    __builtin_memcpy(&out, &a, sizeof(T));
    return out;
  }
  static B2M_INLINE T from_integer(I a) { return static_cast<T>(a); }
  static B2M_INLINE I shift_left(I a, int places) {  // through unsigned: bits shifted out are meant to be lost
    return static_cast<I>(static_cast<std::uint64_t>(a) << places);
  }
};
}  // namespace detail

template <>
struct Lane<float> : detail::ScalarLane<float, std::int32_t> {};
template <>
struct Lane<double> : detail::ScalarLane<double, std::int64_t> {};

}  // namespace b2m
