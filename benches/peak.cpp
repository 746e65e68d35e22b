// How fast one core multiplies and adds, register to register: a line "unit GFLOP/s" for each unit that the processor and the
// operating system have, "unit - reason" for each that they have not. Built with the system's compiler by `peak.py`.
//
// Every loop keeps enough independent sums in registers to hide the latency of the instruction, reads nothing, and is run some
// dozens of times, of which the fastest counts: disturbances only ever add time. A product and its sum are two operations.
//
// The numbers are of the usual sizes with nothing round about them, for zeros take less power and so run at higher clocks. What one
// product makes of a sum the next one takes back, so that the sums stay where they are however long a loop runs.

#include <chrono>
#include <cmath>
#include <cstdio>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

// Sums are named variables, for not every compiler keeps an array in registers. There are 14: two instructions a cycle of a latency
// of six and some to spare, in the 16 registers that SSE2 and AVX2 have.
#define FOURTEEN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13)
constexpr int kSums = 14;

// What the compiler knows, by its version: the package asks for less than these units do.
#if defined(__clang__)
#define SINCE(gcc, llvm) (__clang_major__ >= (llvm))
#else
#define SINCE(gcc, llvm) (__GNUC__ >= (gcc))
#endif
#define KNOWS_AVX512BF16 SINCE(10, 11)
#define KNOWS_AMX SINCE(11, 12)

namespace {

using Loop = void (*)(long);

// Read: from numbers that it knew the compiler would work results out. Written: so that it does not leave them out.
volatile float first = 1.2345679f, second = 0.7654321f, sink;
volatile unsigned pair = 0x3f9ebfd3;  // two of bfloat16: 1.234375, -1.6484375

double Seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Without fused instructions the product counts by itself; it depends on the sum, or it would be taken out of the loop. The sums
// swing about a fixed point.
void Sse2(long repeats) {
#define START(i) __m128 sum##i = _mm_set1_ps(first + 0.1f * i);
#define STEP(i) sum##i = _mm_add_ps(_mm_mul_ps(sum##i, b), c);
#define END(i) sink = sink + _mm_cvtss_f32(sum##i);
  const __m128 b = _mm_set1_ps(-second), c = _mm_set1_ps(first);
  FOURTEEN(START)
  for (long r = 0; r < repeats; ++r) {
    FOURTEEN(STEP)
    FOURTEEN(STEP)
  }
  FOURTEEN(END)
#undef START
#undef STEP
#undef END
}

__attribute__((target("avx2,fma"))) void Avx2(long repeats) {
#define START(i) __m256 sum##i = _mm256_set1_ps(first + 0.1f * i);
#define STEP(i) sum##i = _mm256_fmsub_ps(b, c, sum##i);
#define END(i) sink = sink + _mm256_cvtss_f32(sum##i);
  const __m256 b = _mm256_set1_ps(first), c = _mm256_set1_ps(second);
  FOURTEEN(START)
  for (long r = 0; r < repeats; ++r) {
    FOURTEEN(STEP)
    FOURTEEN(STEP)
  }
  FOURTEEN(END)
#undef START
#undef STEP
#undef END
}

__attribute__((target("avx512f"))) void Avx512(long repeats) {
#define START(i) __m512 sum##i = _mm512_set1_ps(first + 0.1f * i);
#define STEP(i) sum##i = _mm512_fmsub_ps(b, c, sum##i);
#define END(i) sink = sink + _mm512_cvtss_f32(sum##i);
  const __m512 b = _mm512_set1_ps(first), c = _mm512_set1_ps(second);
  FOURTEEN(START)
  for (long r = 0; r < repeats; ++r) {
    FOURTEEN(STEP)
    FOURTEEN(STEP)
  }
  FOURTEEN(END)
#undef START
#undef STEP
#undef END
}

#if KNOWS_AVX512BF16
__attribute__((target("avx512f,avx512bf16"))) void Avx512Bf16(long repeats) {
#define START(i) __m512 sum##i = _mm512_set1_ps(first + 0.1f * i);
#define ADD(i) sum##i = _mm512_dpbf16_ps(sum##i, b, b);
#define TAKE(i) sum##i = _mm512_dpbf16_ps(sum##i, b, minus_b);
#define END(i) sink = sink + _mm512_cvtss_f32(sum##i);
  const __m512i bits = _mm512_set1_epi32(static_cast<int>(pair)), signs = _mm512_set1_epi32(static_cast<int>(0x80008000));
  const __m512bh b = (__m512bh)bits, minus_b = (__m512bh)_mm512_xor_si512(bits, signs);
  FOURTEEN(START)
  for (long r = 0; r < repeats; ++r) {
    FOURTEEN(ADD)
    FOURTEEN(TAKE)
  }
  FOURTEEN(END)
#undef START
#undef ADD
#undef TAKE
#undef END
}
#else
constexpr Loop Avx512Bf16 = nullptr;
#endif

#if KNOWS_AMX
// The form in which the tile registers are configured: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfiguration {
  unsigned char palette = 1, start = 0, reserved[14] = {};
  unsigned short bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64, "the processor reads 64 bytes");

__attribute__((target("amx-tile,amx-bf16"))) void Amx(long repeats) {
  const TileConfiguration configuration;
  constexpr int kNumbers = 16 * 32, kRow = 64;
  unsigned random = 1;
  // Of bfloat16, of a size from 1 to 2; two of them read as float32 are of such a size too.
  unsigned short numbers[kNumbers], minus[kNumbers];
  for (int i = 0; i < kNumbers; ++i) {
    random = 1664525 * random + 1013904223;
    numbers[i] = static_cast<unsigned short>(0x3f80 | (random >> 16 & 0x807f));
    minus[i] = static_cast<unsigned short>(numbers[i] ^ 0x8000);
  }
  _tile_loadconfig(&configuration);
  _tile_loadd(0, numbers, kRow);
  _tile_loadd(1, minus, kRow);
  _tile_loadd(2, numbers, kRow);
  _tile_loadd(3, minus, kRow);
  _tile_loadd(4, numbers, kRow);
  _tile_loadd(5, minus, kRow);
  _tile_loadd(6, numbers, kRow);
  _tile_loadd(7, minus, kRow);
  for (long r = 0; r < repeats; ++r) {
    // Four sums: 52 cycles of latency, of which every instruction takes 16.
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 5, 7);
    _tile_dpbf16ps(3, 5, 6);
  }
  float sums[16 * 16];
  _tile_stored(0, sums, kRow);
  sink = sums[0];
  _tile_release();
}
#else
constexpr Loop Amx = nullptr;
#endif

// What the operating system saves at a switch of threads: bits 1 and 2 AVX, 5 to 7 AVX-512, 17 and 18 AMX.
unsigned SavedState() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

struct Features {
  bool avx2, avx512, avx512bf16, amx;
};

Features Find() {
  unsigned a = 0, b = 0, c = 0, d = 0, one = 0, seven = 0, seven_d = 0, seven_1 = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) one = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) seven = b, seven_d = d;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) seven_1 = a;
  const unsigned saved = SavedState();
  const bool vectors = (saved & 0x6) == 0x6, wide = vectors && (saved & 0xe0) == 0xe0;
  Features found;
  found.avx2 = vectors && (seven >> 5 & 1) && (one >> 12 & 1);
  found.avx512 = wide && (seven >> 16 & 1);
  found.avx512bf16 = found.avx512 && (seven_1 >> 5 & 1);
  found.amx = (saved & 0x60000) == 0x60000 && (seven_d >> 22 & 1) && (seven_d >> 24 & 1);
  return found;
}

// Linux gives a process the tile registers on request only.
bool TilesGranted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

void Missing(const char* unit, const char* reason) { std::printf("%s - %s\n", unit, reason); }

// operations: of one turn of the loop.
void Measure(const char* unit, Loop loop, double operations) {
  long repeats = 1000;
  double seconds = 0;
  while (seconds < 0.005) {
    repeats *= 2;
    const double start = Seconds();
    loop(repeats);
    seconds = Seconds() - start;
  }
  double fastest = seconds;
  for (int k = 0; k < 60; ++k) {
    sink = 0;
    const double start = Seconds();
    loop(repeats);
    seconds = Seconds() - start;
    if (seconds < fastest) fastest = seconds;
  }
  if (!std::isnormal(sink)) return Missing(unit, "its numbers did not stay of the usual sizes");
  std::printf("%s %.1f\n", unit, 1e-9 * operations * static_cast<double>(repeats) / fastest);
}

void Report(const char* unit, Loop loop, bool found, double operations) {
  if (loop == nullptr) return Missing(unit, "not known to this compiler");
  if (!found) return Missing(unit, "not of this processor and operating system");
  Measure(unit, loop, operations);
}

}  // namespace

int main() {
  const Features found = Find();
  constexpr double kTurn = 2.0 * 2 * kSums;  // of one lane: two steps of a product and a sum
  Report("sse2", Sse2, true, 4 * kTurn);
  Report("avx2", Avx2, found.avx2, 8 * kTurn);
  Report("avx512", Avx512, found.avx512, 16 * kTurn);
  Report("avx512bf16", Avx512Bf16, found.avx512bf16, 32 * kTurn);
  if (KNOWS_AMX && found.amx && !TilesGranted()) {
    Missing("amx", "the operating system refused the tile registers");
  } else {
    Report("amx", Amx, found.amx, 2.0 * 16 * 16 * 32 * 8);
  }
  return 0;
}

#else

int main() {
  std::printf("all - only the units of x86-64 are known here\n");
  return 0;
}

#endif
