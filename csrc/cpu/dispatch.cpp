#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace b2m {
namespace {

struct Entry {
  const InstructionLevel* level;
  bool (*runs_here)();
};

bool always() { return true; }
#if defined(B2M_HAVE_AVX2)
// __builtin_cpu_supports also asks the operating system (XCR0) whether it saves the wide registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(B2M_HAVE_AVX512)
bool has_avx512() {
  return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const Entry kLevels[] = {
    {&kGenericLevel, always},
#if defined(B2M_HAVE_AVX2)
    {&kAvx2Level, has_avx2},
#endif
#if defined(B2M_HAVE_AVX512)
    {&kAvx512Level, has_avx512},
#endif
};

thread_local const InstructionLevel* fixed_level = nullptr;

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<std::string> compiled_levels() {
  std::vector<std::string> names;
  for (const Entry& entry : kLevels) names.emplace_back(entry.level->name);
  return names;
}

std::vector<std::string> available_levels() {
  std::vector<std::string> names;
  for (const Entry& entry : kLevels) {
    if (entry.runs_here()) names.emplace_back(entry.level->name);
  }
  return names;
}

const InstructionLevel& chosen_level() {
  if (fixed_level) return *fixed_level;
  const char* wanted = std::getenv("B2M_ISA");
  const InstructionLevel* best = nullptr;
  for (const Entry& entry : kLevels) {
    if (!entry.runs_here()) continue;
    if (wanted && *wanted && std::string(wanted) == entry.level->name) return *entry.level;
    best = entry.level;
  }
  if (wanted && *wanted) {
    throw std::invalid_argument("B2M_ISA=" + std::string(wanted) +
                                " is not an instruction level this machine can run; available: " + joined(available_levels()) +
                                "; compiled in: " + joined(compiled_levels()));
  }
  return *best;
}

LevelScope::LevelScope() { fixed_level = &chosen_level(); }
LevelScope::~LevelScope() { fixed_level = nullptr; }

}  // namespace b2m
