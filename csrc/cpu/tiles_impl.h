// Products of bfloat16 parts on tile registers: eight of 16 rows x 64 bytes, as AMX has them.
//
// `Tiles` is a class with the instructions: AMX's own (isa_amx.cpp), or a model of them in plain C++ (csrc/tests/amx_emulation).
#pragma once

#include "cpu/parts_impl.h"

namespace b2m {
namespace {

// Words of depth times parts after which the next columns come: two columns of blocks of the right side, 32 KiB, stay in the
// first-level cache while the rows of the left side go by.
constexpr std::int64_t kTileWords = 256;

// The registers' roles: a 2 x 2 block of sums takes each loaded register twice.
constexpr int kSum(int i, int j) { return 2 * i + j; }
constexpr int kLeft(int i) { return 4 + i; }
constexpr int kRight(int j) { return 6 + j; }

template <class Tiles, int kRows, int kColumns>
B2M_INLINE void tile_block(Tiles& tiles, const PartsProduct& p, const std::uint32_t* left, const std::uint32_t* right, float* c,
                           std::int64_t depth, bool accumulate) {
  constexpr bool low = kRows > 1, far = kColumns > 1;  // a second row, a second column of registers
  const std::int64_t c_stride = p.c_row * 4, left_stride = p.left.row * 4, right_stride = p.right.row * 4;
  float* c_low = c + kWordBlock * p.c_row;
  if (accumulate) {
    tiles.template load<kSum(0, 0)>(c, c_stride);
    if constexpr (far) tiles.template load<kSum(0, 1)>(c + kWordBlock, c_stride);
    if constexpr (low) tiles.template load<kSum(1, 0)>(c_low, c_stride);
    if constexpr (low && far) tiles.template load<kSum(1, 1)>(c_low + kWordBlock, c_stride);
  } else {
    tiles.template zero<kSum(0, 0)>();
    if constexpr (far) tiles.template zero<kSum(0, 1)>();
    if constexpr (low) tiles.template zero<kSum(1, 0)>();
    if constexpr (low && far) tiles.template zero<kSum(1, 1)>();
  }
  const PartPair* pairs = kPairs[p.parts - 1];
  const int products = products_of(p.parts);
  for (std::int64_t k = 0; k < depth; k += kWordBlock) {
    PartPair loaded{-1, -1};
    for (int product = 0; product < products; ++product) {
      const PartPair pair = pairs[product];
      if (pair.left != loaded.left) {
        const std::uint32_t* from = left + pair.left * p.left.part + k / kWordBlock * p.left.block;
        tiles.template load<kLeft(0)>(from, left_stride);
        if constexpr (low) tiles.template load<kLeft(1)>(from + kWordBlock * p.left.row, left_stride);
      }
      if (pair.right != loaded.right) {
        const std::uint32_t* from = right + pair.right * p.right.part + k * p.right.row;
        tiles.template load<kRight(0)>(from, right_stride);
        if constexpr (far) tiles.template load<kRight(1)>(from + p.right.block, right_stride);
      }
      loaded = pair;
      tiles.template multiply<0, 0>();
      if constexpr (far) tiles.template multiply<0, 1>();
      if constexpr (low) tiles.template multiply<1, 0>();
      if constexpr (low && far) tiles.template multiply<1, 1>();
    }
  }
  tiles.template store<kSum(0, 0)>(c, c_stride);
  if constexpr (far) tiles.template store<kSum(0, 1)>(c + kWordBlock, c_stride);
  if constexpr (low) tiles.template store<kSum(1, 0)>(c_low, c_stride);
  if constexpr (low && far) tiles.template store<kSum(1, 1)>(c_low + kWordBlock, c_stride);
}

template <class Tiles>
void tile_product(const PartsProduct& p) {
  Tiles tiles;
  const std::int64_t step = kTileWords / p.parts / kWordBlock * kWordBlock;
  std::int64_t k = 0;
  do {  // once also for depth 0, which writes zeros
    const std::int64_t depth = p.depth - k < step ? p.depth - k : step;
    const bool accumulate = p.accumulate || k > 0;
    for (std::int64_t j = 0; j < p.columns; j += 2 * kWordBlock) {
      const std::uint32_t* right = p.right.data + j / kWordBlock * p.right.block + k * p.right.row;
      const bool far = p.columns - j > kWordBlock;
      for (std::int64_t i = 0; i < p.rows; i += 2 * kWordBlock) {
        const std::uint32_t* left = p.left.data + i * p.left.row + k / kWordBlock * p.left.block;
        float* c = p.c + i * p.c_row + j;
        const bool low = p.rows - i > kWordBlock;
        if (low && far) {
          tile_block<Tiles, 2, 2>(tiles, p, left, right, c, depth, accumulate);
        } else if (low) {
          tile_block<Tiles, 2, 1>(tiles, p, left, right, c, depth, accumulate);
        } else if (far) {
          tile_block<Tiles, 1, 2>(tiles, p, left, right, c, depth, accumulate);
        } else {
          tile_block<Tiles, 1, 1>(tiles, p, left, right, c, depth, accumulate);
        }
      }
    }
    k += step;
  } while (k < p.depth);
}

}  // namespace
}  // namespace b2m
