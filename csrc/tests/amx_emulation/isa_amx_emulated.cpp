// The AMX level with its tile instructions executed by plain C++, for tests where no processor has them: the same packing, blocks,
// loops and order of products. What is not modelled: speed, and the permission that the operating system has to give.
#include "cpu/tiles_impl.h"

namespace b2m {
namespace {

/// Rows of 16 words; sums are floats in the same bits.
class EmulatedTiles {
 public:
  EmulatedTiles() {  // as after loading a configuration, but not with zeros: nothing may count on them
    for (auto& tile : tiles_) {
      for (auto& row : tile) {
        for (float& value : row) value = __builtin_nanf("");
      }
    }
  }
  template <int t>
  void zero() {
    for (auto& row : tiles_[t]) {
      for (float& value : row) value = 0;
    }
  }
  template <int t>
  void load(const void* from, std::int64_t stride) {
    for (std::int64_t i = 0; i < kWordBlock; ++i) {
      __builtin_memcpy(tiles_[t][i], static_cast<const char*>(from) + i * stride, sizeof tiles_[t][i]);
    }
  }
  template <int t>
  void store(void* to, std::int64_t stride) {
    for (std::int64_t i = 0; i < kWordBlock; ++i) {
      __builtin_memcpy(static_cast<char*>(to) + i * stride, tiles_[t][i], sizeof tiles_[t][i]);
    }
  }
  /// TDPBF16PS as Intel's manual has it: even and odd products are summed apart over the 16 words, then together, then to the sum;
  /// denormals are zeros, and every step rounds to nearest.
  template <int i, int j>
  void multiply() {
    const auto& left = tiles_[kLeft(i)];
    const auto& right = tiles_[kRight(j)];
    auto& sum = tiles_[kSum(i, j)];
    for (std::int64_t m = 0; m < kWordBlock; ++m) {
      float even[kWordBlock] = {}, odd[kWordBlock] = {};
      for (std::int64_t k = 0; k < kWordBlock; ++k) {
        for (std::int64_t n = 0; n < kWordBlock; ++n) {
          even[n] = flushed(even[n] + lower(left[m][k]) * lower(right[k][n]));
          odd[n] = flushed(odd[n] + upper(left[m][k]) * upper(right[k][n]));
        }
      }
      for (std::int64_t n = 0; n < kWordBlock; ++n) sum[m][n] = flushed(flushed(sum[m][n]) + flushed(even[n] + odd[n]));
    }
  }

 private:
  static B2M_INLINE float flushed(float a) { return __builtin_fabsf(a) < 0x1p-126f ? 0.0f : a; }
  static B2M_INLINE std::uint32_t bits(float word) {
    std::uint32_t out;
    __builtin_memcpy(&out, &word, sizeof out);
    return out;
  }
  static B2M_INLINE float from(std::uint32_t bits) {
    float out;
    __builtin_memcpy(&out, &bits, sizeof out);
    return flushed(out);
  }
  static B2M_INLINE float lower(float word) { return from(bits(word) << 16); }
  static B2M_INLINE float upper(float word) { return from(bits(word) & 0xffff0000u); }

  float tiles_[8][kWordBlock][kWordBlock];
};

// At no cost, so that it is chosen wherever it could be.
constexpr PartsUnit kUnit = make_parts_unit({1e9, 0, 2 * kWordBlock}, tile_product<EmulatedTiles>);

}  // namespace

extern const InstructionLevel kAmxEmulatedLevel = {"amx-emulated", &kAvx512Single, &kAvx512Wide, &kUnit};

}  // namespace b2m
