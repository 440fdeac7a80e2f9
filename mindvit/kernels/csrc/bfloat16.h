// Products whose operands are rounded to bfloat16 and whose sums are float32.
#pragma once

#include <cstdint>
#include <memory>

namespace mindvit {

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

 private:
  const int64_t k_, n_, steps_;
  std::unique_ptr<uint16_t[]> memory_;
  uint16_t *values_;  // in it, where a line of the cache begins
};

}  // namespace mindvit
