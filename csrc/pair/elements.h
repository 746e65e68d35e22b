// Reading and writing elements of any dtype, on the host and on a device.
#pragma once

#include <cstdint>

#include "b2m/types.h"
#include "pair/lanes.h"

namespace b2m {

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

B2M_INLINE float float_from_bits(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
B2M_INLINE std::uint32_t bits_of_float(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

B2M_INLINE double widen(double value) { return value; }
B2M_INLINE float widen(float value) { return value; }
B2M_INLINE float widen(BFloat16 value) { return float_from_bits(static_cast<std::uint32_t>(value.bits) << 16); }
B2M_INLINE float widen(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // infinity, NaN
  // Placed 112 binades too low, denormals included, then multiplied back up: exact.
  return float_from_bits(sign | bits_of_float(float_from_bits(magnitude << 13) * 0x1p112f));
}

B2M_INLINE void narrow(double from, double& to) { to = from; }
B2M_INLINE void narrow(double from, float& to) { to = static_cast<float>(from); }
B2M_INLINE void narrow(float from, double& to) { to = static_cast<double>(from); }
B2M_INLINE void narrow(float from, float& to) { to = from; }
B2M_INLINE void narrow(float from, BFloat16& to) {  // to nearest, ties to even
  const std::uint32_t bits = bits_of_float(from);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = is_nan ? (bits | 0x00400000u) : bits + 0x7fffu + ((bits >> 16) & 1u);
  to.bits = static_cast<std::uint16_t>(rounded >> 16);
}
B2M_INLINE void narrow(float from, Float16& to) {  // to nearest, ties to even
  const std::uint32_t bits = bits_of_float(from);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // denormal: adding 0.5 rounds at the weight of the last denormal bit
    half = bits_of_float(float_from_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  to.bits = static_cast<std::uint16_t>(sign | half);
}
B2M_INLINE void narrow(double from, BFloat16& to) { narrow(static_cast<float>(from), to); }
B2M_INLINE void narrow(double from, Float16& to) { narrow(static_cast<float>(from), to); }

/// body(pointer to the element type) for the dtype of `data`.
template <class Body>
void with_elements(DType dtype, void* data, const Body& body) {
  switch (dtype) {
    case DType::float64:
      return body(static_cast<double*>(data));
    case DType::float32:
      return body(static_cast<float*>(data));
    case DType::bfloat16:
      return body(static_cast<BFloat16*>(data));
    case DType::float16:
      return body(static_cast<Float16*>(data));
  }
}

/// to[j] = matrix(i, first + j), j < count.
template <class T>
void read_row(const Matrix& matrix, std::int64_t i, std::int64_t first, std::int64_t count, T* to) {
  with_elements(matrix.dtype, matrix.data, [&](const auto* data) {
    const auto* from = data + i * matrix.row_stride + first * matrix.column_stride;
    for (std::int64_t j = 0; j < count; ++j) to[j] = static_cast<T>(widen(from[j * matrix.column_stride]));
  });
}

/// matrix(i, first + j) = from[j], j < count.
template <class T>
void write_row(const Matrix& matrix, std::int64_t i, std::int64_t first, std::int64_t count, const T* from) {
  with_elements(matrix.dtype, matrix.data, [&](auto* data) {
    auto* to = data + i * matrix.row_stride + first * matrix.column_stride;
    for (std::int64_t j = 0; j < count; ++j) narrow(from[j], to[j * matrix.column_stride]);
  });
}

}  // namespace b2m
