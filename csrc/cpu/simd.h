// A vector of lanes from compiler vector types, so one source serves SSE2, NEON, AVX2 and AVX-512.
//
// Everything here has internal linkage: each instruction level is a translation unit of its own, and a shared (weak) symbol
// compiled for AVX-512 could otherwise be the one the linker keeps for every caller.
#pragma once

#include <cstdint>

#include "pair/lanes.h"

namespace b2m {
namespace {

template <class T>
struct LaneInteger;
template <>
struct LaneInteger<float> {
  using type = std::int32_t;
};
template <>
struct LaneInteger<double> {
  using type = std::int64_t;
};

/// kBytes / sizeof(T) lanes of T. A mask is the integer vector a comparison gives: all ones or all zeros per lane.
template <class T, int kBytes>
struct Vec {
  using scalar = T;
  using integer = typename LaneInteger<T>::type;
  typedef T native __attribute__((vector_size(kBytes)));
  typedef integer mask __attribute__((vector_size(kBytes)));
  static constexpr int width = kBytes / static_cast<int>(sizeof(T));

  native v;

  B2M_INLINE Vec() {}
  B2M_INLINE explicit Vec(T value) : v(value - native{}) {}
  static B2M_INLINE Vec of(native lanes) {
    Vec out;
    out.v = lanes;
    return out;
  }

  static B2M_INLINE Vec load(const T* from) {
    native lanes;
    __builtin_memcpy(&lanes, from, kBytes);
    return of(lanes);
  }
  B2M_INLINE void store(T* to) const { __builtin_memcpy(to, &v, kBytes); }

  friend B2M_INLINE Vec operator+(Vec a, Vec b) { return of(a.v + b.v); }
  friend B2M_INLINE Vec operator-(Vec a, Vec b) { return of(a.v - b.v); }
  friend B2M_INLINE Vec operator*(Vec a, Vec b) { return of(a.v * b.v); }
  friend B2M_INLINE Vec operator/(Vec a, Vec b) { return of(a.v / b.v); }
  friend B2M_INLINE Vec operator-(Vec a) { return of(-a.v); }
  friend B2M_INLINE mask operator<(Vec a, Vec b) { return a.v < b.v; }
  friend B2M_INLINE mask operator>(Vec a, Vec b) { return a.v > b.v; }

  friend B2M_INLINE Vec select(mask condition, Vec yes, Vec no) { return of(condition ? yes.v : no.v); }
  friend B2M_INLINE mask bits(Vec a) {
    mask out;
    __builtin_memcpy(&out, &a.v, kBytes);
    return out;
  }
  static B2M_INLINE Vec from_bits(mask a) {
    native out;
    __builtin_memcpy(&out, &a, kBytes);
    return of(out);
  }
  /// Integer lanes as numbers.
  static B2M_INLINE Vec from_integer(mask a) { return of(__builtin_convertvector(a, native)); }
  static B2M_INLINE mask broadcast_integer(integer a) { return a - mask{}; }
  static B2M_INLINE mask load_integer(const integer* from) {
    mask lanes;
    __builtin_memcpy(&lanes, from, kBytes);
    return lanes;
  }
  /// 0, 1, 2, ... per lane.
  static B2M_INLINE mask lane_index() {
    mask index;
    for (int lane = 0; lane < width; ++lane) index[lane] = lane;
    return index;
  }
  friend B2M_INLINE Vec square_root(Vec a) {
    Vec out;
    for (int lane = 0; lane < width; ++lane) out.v[lane] = square_root(a.v[lane]);
    return out;
  }
  /// Sum of the lanes, always in the same order.
  friend B2M_INLINE T reduce_add(Vec a) {
    T sum = a.v[0];
    for (int lane = 1; lane < width; ++lane) sum += a.v[lane];
    return sum;
  }
  friend B2M_INLINE T reduce_max(Vec a) {
    T best = a.v[0];
    for (int lane = 1; lane < width; ++lane) best = a.v[lane] > best ? a.v[lane] : best;
    return best;
  }
};

}  // namespace
}  // namespace b2m
