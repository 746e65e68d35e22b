// Packing of floats as words of bfloat16 parts (cpu/kernels.h), and the order in which products of parts are taken.
//
// Included by the levels that multiply such parts; all of them have AVX-512 with its bfloat16 conversions.
#pragma once

#include "cpu/intrinsics.h"
#include "cpu/kernels.h"
#include "pair/lanes.h"

namespace b2m {
namespace {

struct PartPair {
  int left, right;
};
/// From one pair to the next only one side changes, so that a unit loads one side only.
constexpr PartPair kPairsOf1[] = {{0, 0}};
constexpr PartPair kPairsOf2[] = {{0, 1}, {0, 0}, {1, 0}};
constexpr PartPair kPairsOf3[] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};
constexpr const PartPair* kPairs[kMostParts] = {kPairsOf1, kPairsOf2, kPairsOf3};

/// Rounded to bfloat16, to nearest, ties to even; NaN stays NaN, denormals become 0.
B2M_INLINE __m512 rounded(__m512 a) {
  const __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/// 32 neighbours of a row as 16 words.
B2M_INLINE __m512i words_along(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

/// 16 values of one row and 16 of the next (already rounded) as 16 words.
B2M_INLINE __m512i words_across(__m512 first, __m512 second) {
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(first), 16);
  const __m512i high = _mm512_and_si512(_mm512_castps_si512(second), _mm512_set1_epi32(-65536));
  return _mm512_or_si512(low, high);
}

/// 16 x 16 words; four rounds that exchange ever larger parts of neighbouring rows.
B2M_INLINE void transpose(__m512i (&w)[kWordBlock]) {
  __m512i t[kWordBlock];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // w[i + k]: column 4 lane + k of the four rows, in each 128-bit lane
    w[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    w[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    w[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    w[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int half = 0; half < 16; half += 8) {
    for (int k = 0; k < 4; ++k) {
      t[half + k] = _mm512_shuffle_i32x4(w[half + k], w[half + 4 + k], 0x88);      // lanes 0 and 2 of both
      t[half + 4 + k] = _mm512_shuffle_i32x4(w[half + k], w[half + 4 + k], 0xdd);  // lanes 1 and 3
    }
  }
  for (int k = 0; k < 4; ++k) {
    w[k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0x88);
    w[8 + k] = _mm512_shuffle_i32x4(t[k], t[8 + k], 0xdd);
    w[4 + k] = _mm512_shuffle_i32x4(t[4 + k], t[12 + k], 0x88);
    w[12 + k] = _mm512_shuffle_i32x4(t[4 + k], t[12 + k], 0xdd);
  }
}

/// Up to 16 values, then zeros; `count` may be negative.
B2M_INLINE __m512 load_some(const float* from, std::int64_t count) {
  if (count >= kWordBlock) return _mm512_loadu_ps(from);
  if (count <= 0) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), from);
}

/// kAlong: words of neighbours in a row (else in a column). kTransposed: word rows become word columns.
template <bool kAlong, bool kTransposed>
void pack_parts(const PartsSource& s, WordLayout<std::uint32_t> to) {
  constexpr std::int64_t block_rows = kAlong ? kWordBlock : 2 * kWordBlock;
  constexpr std::int64_t block_columns = kAlong ? 2 * kWordBlock : kWordBlock;
  for (std::int64_t row = 0; row < s.rows; row += block_rows) {
    for (std::int64_t column = 0; column < s.columns; column += block_columns) {
      __m512i words[kMostParts][kWordBlock];
      for (std::int64_t k = 0; k < kWordBlock; ++k) {
        const std::int64_t first_row = row + (kAlong ? k : 2 * k), second_row = kAlong ? first_row : first_row + 1;
        const std::int64_t second_column = kAlong ? column + kWordBlock : column;
        const float* from = s.data + first_row * s.row + column;
        __m512 first = load_some(from, first_row < s.rows ? s.columns - column : 0);
        __m512 second =
            load_some(kAlong ? from + kWordBlock : from + s.row, second_row < s.rows ? s.columns - second_column : 0);
        for (int part = 0; part < s.parts; ++part) {
          const __m512 a = rounded(first), b = rounded(second);
          words[part][k] = kAlong ? words_along(a, b) : words_across(a, b);
          first = _mm512_sub_ps(first, a);
          second = _mm512_sub_ps(second, b);
        }
      }
      const std::int64_t across = row / block_rows, along = column / block_columns;
      const std::int64_t u = kTransposed ? along : across, v = kTransposed ? across : along;
      for (int part = 0; part < s.parts; ++part) {
        if constexpr (kTransposed) transpose(words[part]);
        std::uint32_t* at = to.data + part * to.part + v * to.block + u * kWordBlock * to.row;
        for (std::int64_t k = 0; k < kWordBlock; ++k) _mm512_storeu_si512(at + k * to.row, words[part][k]);
      }
    }
  }
}

constexpr PartsUnit make_parts_unit(PartsCost cost, void (*product)(const PartsProduct&)) {
  return {cost,
          2 * kWordBlock,
          product,
          pack_parts<true, false>,
          pack_parts<false, true>,
          pack_parts<false, false>,
          pack_parts<true, true>};
}

}  // namespace
}  // namespace b2m
