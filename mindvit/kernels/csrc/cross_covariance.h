// Cross-covariance attention (XCiT): among the channels of each head.
#pragma once

#include <cstdint>

namespace mindvit {

// What its gradient needs beside qkv: weights and products q^T k (B, heads, d, d), 1 / lengths (B,
// heads, 2, d)
template <typename T>
struct CovarianceSaved {
  T *weights, *products, *lengths;
};

struct CrossCovarianceAttention {
  int64_t batch, tokens, channels, heads;
  const float *temperature;  // (heads,)
  float eps;

  // qkv (B, N, 3C) -> y (B, N, C)
  void Forward(const float *qkv, const CovarianceSaved<float> &saved, float *y) const;

  // qkv, dy -> dqkv, dtemperature (heads,)
  void Backward(const float *qkv, const CovarianceSaved<const float> &saved, const float *dy,
                float *dqkv, float *dtemperature) const;

 private:
  // of head i of the batch; its part of the temperature's gradient
  double HeadGrad(int64_t i, const float *qkv, const CovarianceSaved<const float> &saved,
                  const float *dy, float *dqkv) const;
};

}  // namespace mindvit
