// Which kernel runs an epilogue: by the arithmetic of the rows, and for bfloat16 by the device.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/launch.h"
#include "cuda/loops.h"

namespace b2m {
namespace cuda {

/// One side of a problem: prepared rows against prepared rows, or nothing to multiply (stored scores).
struct SideRows {
  const Rows* rows;
  const Rows* columns;
  Products products;
  Scoring scoring;
};

inline Operands operands(const SideRows& side) {
  Operands made{};
  made.products = side.products;
  made.scoring = side.scoring;
  if (!side.rows) return made;
  made.rows = side.rows->data;
  made.columns = side.columns->data;
  made.row_count = side.rows->count;
  made.column_count = side.columns->count;
  made.depth = static_cast<int>(side.rows->depth);
  made.row_stride = static_cast<int>(side.rows->parts * side.rows->depth);
  made.column_stride = static_cast<int>(side.columns->parts * side.columns->depth);
  return made;
}

/// On Hopper; compiled for sm_90a alone, in the *_hopper.cu files (run_hopper.h).
template <class Epilogue>
void run_hopper(const char* what, const Grid& grid, const SideRows& c, const SideRows& t,
                const typename Epilogue::Parameters& parameters, Stream stream);

template <class Loop, class Epilogue>
void run_loop(const char* what, const Grid& grid, const SideRows& c, const SideRows& t,
              const typename Epilogue::Parameters& parameters, Stream stream) {
  const TileArguments<Epilogue> arguments{grid, operands(c), operands(t), parameters};
  const std::int64_t most = static_cast<std::int64_t>(multiprocessors(stream.device)) * 4;
  const std::int64_t blocks = grid.tiles() < most ? grid.tiles() : most;
  launch(what, tile_kernel<Loop, Epilogue>, blocks, kThreads, static_cast<int>(sizeof(TileShared<Loop, Epilogue>)), stream,
         arguments);
}

/// Epilogue<float> or Epilogue<double> over all tiles of a grid. t is read by two-sided epilogues only.
template <template <class> class Epilogue, class MakeParameters>
void run_tiles(const char* what, Arithmetic arithmetic, const Grid& grid, const SideRows& c, const SideRows& t,
               const MakeParameters& parameters, Stream stream) {
  if (grid.tiles() <= 0) return;
  if (grid.tiles() >= (std::int64_t{1} << 31)) throw std::runtime_error(std::string(what) + ": a band of 2^31 tiles or more");
  const DeviceScope scope(stream.device);
  if (arithmetic == Arithmetic::float64) {
    run_loop<ScalarLoop<double>, Epilogue<double>>(what, grid, c, t, parameters(double()), stream);
  } else if (arithmetic == Arithmetic::float32) {
    run_loop<ScalarLoop<float>, Epilogue<float>>(what, grid, c, t, parameters(float()), stream);
  } else if (use_hopper(stream.device)) {
    run_hopper<Epilogue<float>>(what, grid, c, t, parameters(float()), stream);
  } else if (c.products > 1 || t.products > 1) {
    run_loop<AmpereLoop<true>, Epilogue<float>>(what, grid, c, t, parameters(float()), stream);
  } else {
    run_loop<AmpereLoop<false>, Epilogue<float>>(what, grid, c, t, parameters(float()), stream);
  }
}

}  // namespace cuda
}  // namespace b2m
