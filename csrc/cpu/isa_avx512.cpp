// AVX-512 (F, BW, DQ, VL): 64-byte vectors, 32 registers.
#include "cpu/kernels_impl.h"

namespace b2m {

extern const Kernels<float> kAvx512Single = make_kernels<float, 64, 14>();
extern const Kernels<double> kAvx512Wide = make_kernels<double, 64, 14>();
extern const InstructionLevel kAvx512Level = {"avx512", &kAvx512Single, &kAvx512Wide, nullptr};

}  // namespace b2m
