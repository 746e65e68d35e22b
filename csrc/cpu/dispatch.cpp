#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>

#if defined(B2M_HAVE_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
#if defined(B2M_HAVE_AVX512BF16)
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif
#if defined(B2M_HAVE_AMX)
/// Whether the processor has AMX for bfloat16 and the operating system saves its registers.
bool has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kOsxsave = 1u << 27, kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsxsave)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kAmxBf16 | kAmxTile)) != (kAmxBf16 | kAmxTile)) return false;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;  // configuration and data
  return (low & kTileState) == kTileState;
}
/// Linux hands out the 8 KiB of tile data a thread only on request, once for a process and all its threads.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
bool has_amx() {
  static const bool usable = has_avx512bf16() && has_tiles() && may_use_tiles();
  return usable;
}
#endif

// Slowest first; the last that runs is the choice, but for the emulated level, which has to be asked for by name.
const Entry kLevels[] = {
    {&kGenericLevel, always},
#if defined(B2M_HAVE_AVX2)
    {&kAvx2Level, has_avx2},
#endif
#if defined(B2M_HAVE_AVX512)
    {&kAvx512Level, has_avx512},
#endif
#if defined(B2M_HAVE_AVX512BF16)
    {&kAvx512Bf16Level, has_avx512bf16},
#endif
#if defined(B2M_HAVE_AMX)
    {&kAmxLevel, has_amx},
#endif
#if defined(B2M_HAVE_AMX_EMULATED)
    {&kAmxEmulatedLevel, has_avx512bf16},
#endif
};

const InstructionLevel* emulated_level() {
#if defined(B2M_HAVE_AMX_EMULATED)
  return &kAmxEmulatedLevel;
#else
  return nullptr;
#endif
}

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
    if (entry.level != emulated_level()) best = entry.level;
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
