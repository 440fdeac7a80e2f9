// Functions of single values and rows.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace mindvit {

// exp for values up to 88, within 2 ulp; 0 below -87. NaN stays NaN.
inline float Exp(float value) {
  const float x = value < -87.0f ? -87.0f : value;
  const float shift = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to an integer, which
                                    // stands in its lowest bits
  const float shifted = x * 1.44269504f + shift, n = shifted - shift;
  const float r =
      x * 1.44269504f - n + x * 1.925963e-8f;  // of x log2(e): the first difference is exact with a
                                               // fused product, then the constant's rest
  // 2^r for r in -0.5..0.5: our own minimax fit
  float p = 1.535335852e-4f;
  p = p * r + 1.339887567e-3f;
  p = p * r + 9.618437381e-3f;
  p = p * r + 5.550332467e-2f;
  p = p * r + 2.402264791e-1f;
  p = p * r + 6.931472029e-1f;
  p = p * r + 1.0f;
  uint32_t bits, power;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&power, &shifted, sizeof(power));
  bits += power << 23;  // times 2^n
  std::memcpy(&p, &bits, sizeof(p));
  return value < -87.0f ? 0.0f : p;
}

// Phi(x), the normal distribution function, given e = exp(-x^2 / 2). Phi(-|x|) = e t P(t) with t =
// 1 / (1 + |x| / sqrt 8), as Numerical Recipes transforms erfc; P is our own minimax fit for |x| up
// to 13.4, where e ends: fractional error 4e-8, and 2e-7 in float32, so the tail keeps its digits.
inline float Phi(float x, float e) {
  const float t = 1.0f / (1.0f + 0.35355339f * std::fabs(x));
  float p = -0.0294400609f;
  p = p * t + 0.141824844f;
  p = p * t - 0.242637374f;
  p = p * t + 0.137926279f;
  p = p * t - 0.0125452015f;
  p = p * t + 0.101016264f;
  p = p * t + 0.121635274f;
  p = p * t + 0.141176077f;
  p = p * t + 0.141043876f;
  const float tail = p * t * e;
  return x > 0 ? 1.0f - tail : tail;
}

inline float Gelu(float x) { return x * Phi(x, Exp(-0.5f * x * x)); }

inline float GeluSlope(float x) {
  const float e = Exp(-0.5f * x * x);
  return Phi(x, e) + x * e * 0.3989422804f;
}

inline void AddTo(float *to, const float *from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// softmax of a row, in place
inline void SoftmaxRow(float *row, int64_t width) {
  float most = row[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < width; ++i)
    most = row[i] > most ? row[i]
                         : most;  // std::max, which returns a reference, would not become vectors
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) {
    row[i] = Exp(row[i] - most);
    sum += row[i];
  }
  const float share = 1.0f / sum;
  for (int64_t i = 0; i < width; ++i) row[i] *= share;
}

// its gradient: p * (dp - sum of p * dp over the row); dx may be dp
inline void SoftmaxRowGrad(const float *p, const float *dp, float *dx, int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += p[i] * dp[i];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dx[i] = p[i] * (dp[i] - sum);
}

}  // namespace mindvit
