// Which instruction levels this binary holds, which this processor can run, and which one is used.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace b2m {

/// Names of the levels compiled in, slowest first.
std::vector<std::string> compiled_levels();
/// Those of them that this processor and operating system can run.
std::vector<std::string> available_levels();
/// The fastest available level, or the one named by the environment variable B2M_ISA (read at every call, so a test can change
/// it). Throws std::invalid_argument for a name that is unknown, not compiled in, or not available here.
const InstructionLevel& chosen_level();

/// Fixes the choice for the calling thread while it lives, so that an op runs at one level throughout and reads the environment
/// once, before the interpreter lock is released.
class LevelScope {
 public:
  LevelScope();
  ~LevelScope();
  LevelScope(const LevelScope&) = delete;
  LevelScope& operator=(const LevelScope&) = delete;
};

template <class T>
const Kernels<T>& kernels();
template <>
inline const Kernels<float>& kernels<float>() {
  return *chosen_level().single;
}
template <>
inline const Kernels<double>& kernels<double>() {
  return *chosen_level().wide;
}

}  // namespace b2m
