// AMX: tile registers and their bfloat16 product, beside AVX-512.
#include "cpu/tiles_impl.h"

namespace b2m {
namespace {

struct TileConfiguration {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
// In constant memory: the compiler does not know that the instruction reads all of it.
alignas(64) constexpr TileConfiguration kAllTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/// The instructions. Registers are numbered in the instruction, hence the cases.
class AmxTiles {
 public:
  // Some hundred cycles, against tens of thousands of a product; nothing is left behind for the operating system to save.
  AmxTiles() { _tile_loadconfig(&kAllTiles); }
  ~AmxTiles() { _tile_release(); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int t>
  B2M_INLINE void zero() {
    if constexpr (t == 0) _tile_zero(0);
    if constexpr (t == 1) _tile_zero(1);
    if constexpr (t == 2) _tile_zero(2);
    if constexpr (t == 3) _tile_zero(3);
  }
  template <int t>
  B2M_INLINE void load(const void* from, std::int64_t stride) {
    if constexpr (t == 0) _tile_loadd(0, from, stride);
    if constexpr (t == 1) _tile_loadd(1, from, stride);
    if constexpr (t == 2) _tile_loadd(2, from, stride);
    if constexpr (t == 3) _tile_loadd(3, from, stride);
    if constexpr (t == 4) _tile_loadd(4, from, stride);
    if constexpr (t == 5) _tile_loadd(5, from, stride);
    if constexpr (t == 6) _tile_loadd(6, from, stride);
    if constexpr (t == 7) _tile_loadd(7, from, stride);
  }
  template <int t>
  B2M_INLINE void store(void* to, std::int64_t stride) {
    if constexpr (t == 0) _tile_stored(0, to, stride);
    if constexpr (t == 1) _tile_stored(1, to, stride);
    if constexpr (t == 2) _tile_stored(2, to, stride);
    if constexpr (t == 3) _tile_stored(3, to, stride);
  }
  /// Sum (i, j) += left i times right j.
  template <int i, int j>
  B2M_INLINE void multiply() {
    if constexpr (i == 0 && j == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (i == 0 && j == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (i == 1 && j == 0) _tile_dpbf16ps(2, 5, 6);
    if constexpr (i == 1 && j == 1) _tile_dpbf16ps(3, 5, 7);
  }
};

// Not measured: tiles have 16 times the multiply-adds of float vectors, of which 60 % are counted on; the packing is counted in
// instructions. Three parts then pay from a depth of 64 on, two from 19, one from 8.
constexpr PartsUnit kUnit = make_parts_unit({10, 4.3, 2 * kWordBlock}, tile_product<AmxTiles>);

}  // namespace

extern const InstructionLevel kAmxLevel = {"amx", &kAvx512Single, &kAvx512Wide, &kUnit};

}  // namespace b2m
