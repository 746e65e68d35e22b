// AVX2 and FMA: 32-byte vectors, compiled with -mavx2 -mfma.
#include "cpu/kernels_impl.h"

namespace b2m {
namespace {
constexpr Kernels<float> kSingle = make_kernels<float, 32, 6>();
constexpr Kernels<double> kWide = make_kernels<double, 32, 6>();
}  // namespace

extern const InstructionLevel kAvx2Level = {"avx2", &kSingle, &kWide, nullptr};

}  // namespace b2m
