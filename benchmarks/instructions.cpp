// How many operations a second one core makes of multiply-adds alone, in float32 and in bfloat16:
// what no product can exceed.
//
//   g++ -O2 -march=native benchmarks/instructions.cpp -o build/instructions && build/instructions
#include <immintrin.h>

#include <chrono>
#include <cstdio>

namespace {

constexpr int kSums = 16;  // independent ones: more than an instruction takes cycles
constexpr int kRounds = 20'000'000;

template <typename Add>
void Measure(const char *name, int operations, const Add &add) {
  __m512 sums[kSums] = {};
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      sums[i] = add(sums[i]);
      asm volatile("" : "+v"(sums[i]));  // the compiler keeps each
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s: %.0f GFLOP/s\n", name, 1e-9 * kRounds * kSums * operations / seconds.count());
}

}  // namespace

int main() {
  const __m512 ones = _mm512_set1_ps(1.0f);
  Measure("float32", 2 * 16, [=](__m512 sum) { return _mm512_fmadd_ps(ones, ones, sum); });
#ifdef __AVX512BF16__
  const __m512bh halves = _mm512_cvtne2ps_pbh(ones, ones);
  Measure("bfloat16", 2 * 32, [=](__m512 sum) { return _mm512_dpbf16_ps(sum, halves, halves); });
#endif
}
