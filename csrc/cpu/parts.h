// When rows are multiplied as sums of bfloat16 parts, and how they are packed for it (cpu/kernels.h).
#pragma once

#include "b2m/types.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"

namespace b2m {

/// In how many parts rows of a dtype are multiplied, computing in float, at the chosen level; 0: as they are. `exact`: to float's own precision always.
/// A level's unit is used only where it takes less time than float products do.
int parts_of(DType dtype, Metric metric, std::int64_t depth, Precision precision, bool exact);

/// A packed matrix and its memory.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// u x v words a part. `panels`: the words of a block of columns lie together (the right side of a product), else those of a row.
  PackedMatrix(int parts, std::int64_t u, std::int64_t v, bool panels);

  WordLayout<const std::uint32_t> from(std::int64_t u, std::int64_t v) const {
    return WordLayout<const std::uint32_t>{words_.data(), row_, block_, part_}.from(u, v);
  }
  WordLayout<std::uint32_t> to(std::int64_t u, std::int64_t v) {
    return WordLayout<std::uint32_t>{words_.data(), row_, block_, part_}.from(u, v);
  }

 private:
  Buffer<std::uint32_t> words_;
  std::int64_t row_ = 0, block_ = 0, part_ = 0;
};

/// Rows packed for each role they have in a pair problem, but that of columns; roles that are not needed stay empty.
struct PackedRows {
  const PartsUnit* unit = nullptr;  // null: not packed
  int parts = 0;
  PackedMatrix left;   // rows of scores
  PackedMatrix right;  // what gradient weights are multiplied with
};

struct Roles {
  bool row, gradient;
};

/// rows: (count, stride), `depth` values each.
PackedRows pack_rows(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t depth, int parts, Roles roles,
                     int threads);

/// Rows as columns of scores. to: words_of(columns of `rows`) x its rows or more, as panels.
void pack_columns(const PartsUnit& unit, const PartsSource& rows, PackedMatrix& to, int threads);

/// The gradient weights of one tile, packed for the products with the columns' rows and, transposed, with the rows' rows.
class PackedWeights {
 public:
  PackedWeights(const PartsUnit& unit, int parts, std::int64_t rows, std::int64_t columns);

  /// c (+)= weight times the columns' rows.
  void add_to_rows(const Tile<float>& weight, const PackedRows& column, float* c, std::int64_t c_row, std::int64_t depth);
  /// c (+)= weight' times the rows' rows.
  void add_to_columns(const Tile<float>& weight, const PackedRows& row, float* c, std::int64_t c_row, std::int64_t depth,
                      bool accumulate);

 private:
  const PartsUnit& unit_;
  int parts_;
  PackedMatrix left_, left_transposed_;
};

constexpr std::int64_t whole_blocks(std::int64_t count) { return (count + kWordBlock - 1) / kWordBlock * kWordBlock; }
constexpr std::int64_t words_of(std::int64_t values) { return (values + 1) / 2; }

}  // namespace b2m
