// The definition of run_hopper (run.h), for the *_hopper.cu files, which say for which epilogues.
#pragma once

#include "cuda/hopper.h"
#include "cuda/run.h"

namespace b2m {
namespace cuda {

inline HopperSide hopper_side(const SideRows& side) {
  HopperSide made{};
  made.products = side.products;
  if (!side.rows) return made;
  made.depth = static_cast<int>(side.rows->depth);
  made.rows = map_rows(side.rows->data, side.rows->count, side.rows->parts * side.rows->depth, kTile);
  made.columns = map_rows(side.columns->data, side.columns->count, side.columns->parts * side.columns->depth, kTile);
  return made;
}

template <class Epilogue, bool kPrecise>
void launch_hopper(const char* what, const Grid& grid, const SideRows& c, const SideRows& t,
                   const typename Epilogue::Parameters& parameters, Stream stream) {
  using Kernel = HopperKernel<Epilogue, kPrecise>;
  const HopperArguments<Epilogue> arguments{hopper_side(c), hopper_side(t), grid, parameters};
  const std::int64_t most = static_cast<std::int64_t>(multiprocessors(stream.device)) * Kernel::kBlocks;
  const std::int64_t blocks = grid.tiles() < most ? grid.tiles() : most;
  launch(what, hopper_kernel<Epilogue, kPrecise>, blocks, kThreads, static_cast<int>(sizeof(typename Kernel::Shared)), stream,
         arguments);
}

template <class Epilogue>
void run_hopper(const char* what, const Grid& grid, const SideRows& c, const SideRows& t,
                const typename Epilogue::Parameters& parameters, Stream stream) {
  if (c.products > 1 || t.products > 1) {
    launch_hopper<Epilogue, true>(what, grid, c, t, parameters, stream);
  } else {
    launch_hopper<Epilogue, false>(what, grid, c, t, parameters, stream);
  }
}

/// For which epilogue; within the namespace.
#define B2M_RUN_HOPPER(EPILOGUE)                                                                                              \
  template void run_hopper<EPILOGUE>(const char*, const Grid&, const SideRows&, const SideRows&, const EPILOGUE::Parameters&, \
                                     Stream);

}  // namespace cuda
}  // namespace b2m
