// Products whose operands are rounded to bfloat16 and whose sums are float32.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <memory>

namespace mindvit {

using Half = uint16_t;  // the bits of a bfloat16

// to the nearest, and of two the even one
inline void RoundRow(const float *from, int64_t count, Half *to) {
  int64_t done = 0;
#ifdef __AVX512BF16__
  for (; done + 16 <= count; done += 16)
    _mm256_storeu_si256(
        reinterpret_cast<__m256i *>(to + done),
        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(from + done))));
#endif
  for (int64_t i = done; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof(bits));
    to[i] = static_cast<Half>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  }
}

// Rows of halves, `stride` halves from row to row
struct HalfRows {
  const Half *data;
  int64_t stride;

  // `count` rows of `width` values become halves, each row's where it began
  static void Round(float *rows, int64_t count, int64_t width) {
    for (int64_t r = 0; r < count; ++r)
      RoundRow(rows + r * width, width, reinterpret_cast<Half *>(rows + r * width));
  }
  // such rows
  static HalfRows Rounded(const float *rows, int64_t width) {
    return {reinterpret_cast<const Half *>(rows), 2 * width};
  }
};

inline void ExpandRow(const Half *from, int64_t count, float *to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof(bits));
  }
}

using Gemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                     const float *, int64_t, float, float *, int64_t);

// The product of the calling thread (see dnnl_sgemm; beta is 0 or 1); null where this processor has
// no instruction that makes it faster than float32
Gemm BFloat16Gemm();

// A right operand (k x n) in the order in which instructions take it
class PackedRight {
 public:
  PackedRight(char transpose, int64_t k, int64_t n, const float *data);

  // c (m x n) = a (m x k) times it
  void Times(int64_t m, const float *a, float *c) const;
  void Times(int64_t m, const Half *a, float *c) const;

 private:
  template <typename T>
  void TimesAny(int64_t m, const T *a, float *c) const;

  const int64_t k_, n_, steps_;
  std::unique_ptr<Half[]> memory_;
  Half *values_;  // in it, where a line of the cache begins
};

// dweight (outputs x inputs) = dy^T x of rounded operands: rows x inputs and rows x outputs
void WeightGradOfHalves(const HalfRows &x, const HalfRows &dy, int64_t rows, int64_t inputs,
                        int64_t outputs, float *dweight);

}  // namespace mindvit
