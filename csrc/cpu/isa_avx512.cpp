// AVX-512 (F, BW, DQ, VL): 64-byte vectors, 32 registers.
#include "cpu/kernels_impl.h"

namespace b2m {
namespace {
constexpr Kernels<float> kSingle = make_kernels<float, 64, 14>();
constexpr Kernels<double> kWide = make_kernels<double, 64, 14>();
}  // namespace

extern const InstructionLevel kAvx512Level = {"avx512", &kSingle, &kWide};

}  // namespace b2m
