// The portable level: 16-byte vectors, which every x86-64 (SSE2) and ARM64 (NEON) processor has.
#include "cpu/kernels_impl.h"

namespace b2m {
namespace {
constexpr Kernels<float> kSingle = make_kernels<float, 16, 6>();
constexpr Kernels<double> kWide = make_kernels<double, 16, 6>();
}  // namespace

extern const InstructionLevel kGenericLevel = {"generic", &kSingle, &kWide, nullptr};

}  // namespace b2m
