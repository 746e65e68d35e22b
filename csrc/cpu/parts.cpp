#include "cpu/parts.h"

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace b2m {
namespace {

/// In how many parts rows of a dtype hold their values, as far as the precision asked for needs them.
int parts_wanted(DType dtype, Precision precision, bool exact) {
  if (exact) return 3;
  switch (dtype) {
    case DType::bfloat16:
      return 1;
    case DType::float16:
      return 2;
    default:
      return precision == Precision::highest ? 3 : precision == Precision::high ? 2 : 1;
  }
}

}  // namespace

int parts_of(DType dtype, Metric metric, std::int64_t depth, Precision precision, bool exact) {
  const PartsUnit* unit = chosen_level().parts;
  if (!unit || !is_bilinear(metric)) return 0;
  const int parts = parts_wanted(dtype, precision, exact);
  const PartsCost& cost = unit->cost;
  const auto padded = static_cast<double>((depth + cost.depth_block - 1) / cost.depth_block * cost.depth_block);
  const double time = products_of(parts) * padded / cost.speed + parts * cost.packing;  // of a float product: depth
  return time < static_cast<double>(depth) ? parts : 0;
}

PackedMatrix::PackedMatrix(int parts, std::int64_t u, std::int64_t v, bool panels) {
  u = whole_blocks(u);
  v = whole_blocks(v);
  row_ = panels ? kWordBlock : v;
  // Rows whose distance is a multiple of 256 bytes fall into the same few sets of the first-level cache.
  if (!panels && row_ % 64 == 0) row_ += kWordBlock;
  block_ = panels ? u * kWordBlock : kWordBlock;
  part_ = panels ? u * v : u * row_;
  words_ = Buffer<std::uint32_t>(parts * part_);
}

namespace {

/// body(first row, source of the rows from there) over stretches of rows that fill whole blocks of every packing.
template <class Body>
void for_stretches(const PartsSource& source, int threads, const Body& body) {
  constexpr std::int64_t stretch = 2 * kWordBlock;
  parallel_ranges(threads, (source.rows + stretch - 1) / stretch, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * stretch; i < std::min(end * stretch, source.rows); i += stretch) {
      PartsSource part = source;
      part.data += i * source.row;
      part.rows = std::min(stretch, source.rows - i);
      body(i, part);
    }
  });
}

}  // namespace

PackedRows pack_rows(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t depth, int parts, Roles roles,
                     int threads) {
  PackedRows packed;
  if (parts == 0) return packed;
  const PartsUnit& unit = *chosen_level().parts;
  packed.unit = &unit;
  packed.parts = parts;
  if (roles.row) packed.left = PackedMatrix(parts, count, words_of(depth), false);
  if (roles.gradient) packed.right = PackedMatrix(parts, words_of(count), depth, true);
  for_stretches({parts, rows, stride, count, depth}, threads, [&](std::int64_t i, const PartsSource& source) {
    if (roles.row) unit.left(source, packed.left.to(i, 0));
    if (roles.gradient) unit.right(source, packed.right.to(i / 2, 0));
  });
  return packed;
}

void pack_columns(const PartsUnit& unit, const PartsSource& rows, PackedMatrix& to, int threads) {
  for_stretches(rows, threads, [&](std::int64_t i, const PartsSource& source) { unit.right_transposed(source, to.to(0, i)); });
}

PackedWeights::PackedWeights(const PartsUnit& unit, int parts, std::int64_t rows, std::int64_t columns)
    : unit_(unit),
      parts_(parts),
      left_(parts, rows, words_of(columns), false),
      left_transposed_(parts, columns, words_of(rows), false) {}

void PackedWeights::add_to_rows(const Tile<float>& weight, const PackedRows& column, float* c, std::int64_t c_row,
                                std::int64_t depth) {
  unit_.left({parts_, weight.data, weight.stride, weight.rows, weight.columns}, left_.to(0, 0));
  unit_.product({parts_, weight.rows, whole_blocks(depth), words_of(weight.columns), left_.from(0, 0),
                 column.right.from(weight.column0 / 2, 0), c, c_row, true});
}

void PackedWeights::add_to_columns(const Tile<float>& weight, const PackedRows& row, float* c, std::int64_t c_row,
                                   std::int64_t depth, bool accumulate) {
  unit_.left_transposed({parts_, weight.data, weight.stride, weight.rows, weight.columns}, left_transposed_.to(0, 0));
  unit_.product({parts_, weight.columns, whole_blocks(depth), words_of(weight.rows), left_transposed_.from(0, 0),
                 row.right.from(weight.row0 / 2, 0), c, c_row, accumulate});
}

}  // namespace b2m
