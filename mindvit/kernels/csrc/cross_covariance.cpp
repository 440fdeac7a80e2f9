#include "cross_covariance.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

namespace mindvit {

namespace {

// 1 / max(length, eps) of each of `depth` columns of `tokens` rows, `stride` values apart
void Inverses(const float *x, int64_t tokens, int64_t stride, int64_t depth, float eps,
              float *out) {
  std::vector<float> squares(depth, 0.0f);
  AddRows(0, tokens, kBlock, depth, squares.data(), [=](int64_t t, float *sum) {
    for (int64_t c = 0; c < depth; ++c) sum[c] += x[t * stride + c] * x[t * stride + c];
  });
  for (int64_t c = 0; c < depth; ++c) out[c] = 1.0f / std::max(std::sqrt(squares[c]), eps);
}

}  // namespace

void CrossCovarianceAttention::Forward(const float *qkv, const CovarianceSaved<float> &saved,
                                       float *y) const {
  const int64_t d = channels / heads, width = 3 * channels;
  Rows(batch * heads, tokens * d * 4, [=, &saved](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      const float *q = qkv + b * tokens * width + h * d, *k = q + channels, *v = k + channels;
      float *p = saved.weights + i * d * d, *g = saved.products + i * d * d,
            *inverse = saved.lengths + i * 2 * d;
      Inverses(q, tokens, width, d, eps, inverse);
      Inverses(k, tokens, width, d, eps, inverse + d);
      gemm()('T', 'N', d, d, tokens, 1.0f, q, width, k, width, 0.0f, g, d);
      for (int64_t r = 0; r < d; ++r) {
        for (int64_t c = 0; c < d; ++c)
          p[r * d + c] = temperature[h] * inverse[r] * inverse[d + c] * g[r * d + c];
        SoftmaxRow(p + r * d, d);
      }
      gemm()('N', 'T', tokens, d, d, 1.0f, v, width, p, d, 0.0f, y + b * tokens * channels + h * d,
             channels);
    }
  });
}

double CrossCovarianceAttention::HeadGrad(int64_t i, const float *qkv,
                                          const CovarianceSaved<const float> &saved,
                                          const float *dy, float *dqkv) const {
  const int64_t d = channels / heads, width = 3 * channels, b = i / heads, h = i % heads;
  const float most = 1.0f / eps;
  const float *q = qkv + b * tokens * width + h * d, *k = q + channels, *v = k + channels,
              *out = dy + b * tokens * channels + h * d;
  const float *p = saved.weights + i * d * d, *g = saved.products + i * d * d,
              *inverse = saved.lengths + i * 2 * d;
  float *dq = dqkv + b * tokens * width + h * d, *dk = dq + channels, *dv = dk + channels;
  float *s = Scratch(0, d * d), *slopes = Scratch(1, 2 * d);
  gemm()('N', 'N', tokens, d, d, 1.0f, out, channels, p, d, 0.0f, dv, width);
  gemm()('T', 'N', d, d, tokens, 1.0f, out, channels, v, width, 0.0f, s, d);
  std::fill(slopes, slopes + 2 * d, 0.0f);
  double total = 0;
  for (int64_t r = 0; r < d; ++r) {
    SoftmaxRowGrad(p + r * d, s + r * d, s + r * d, d);
    for (int64_t c = 0; c < d; ++c) {
      const float score = inverse[r] * inverse[d + c] * g[r * d + c] *
                          s[r * d + c];  // d loss / d temperature, this part
      total += score;
      slopes[r] += score;
      slopes[d + c] += score;
      s[r * d + c] *= temperature[h] * inverse[r] * inverse[d + c];
    }
  }
  gemm()('N', 'T', tokens, d, d, 1.0f, k, width, s, d, 0.0f, dq, width);
  gemm()('N', 'N', tokens, d, d, 1.0f, q, width, s, d, 0.0f, dk, width);
  // a length's own gradient: d(1/l)/dx = -x / l^3, where the length is not cut off
  for (int64_t c = 0; c < 2 * d; ++c)
    slopes[c] *= inverse[c] < most ? -temperature[h] * inverse[c] * inverse[c] : 0.0f;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < d; ++c) {
      dq[t * width + c] += q[t * width + c] * slopes[c];
      dk[t * width + c] += k[t * width + c] * slopes[d + c];
    }
  return total;
}

void CrossCovarianceAttention::Backward(const float *qkv, const CovarianceSaved<const float> &saved,
                                        const float *dy, float *dqkv, float *dtemperature) const {
  std::vector<double> shares(batch * heads);
  Rows(batch * heads, tokens * (channels / heads) * 8, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) shares[i] = HeadGrad(i, qkv, saved, dy, dqkv);
  });
  for (int64_t h = 0; h < heads; ++h) {
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) sum += shares[b * heads + h];
    dtemperature[h] = static_cast<float>(sum);
  }
}

}  // namespace mindvit

using namespace mindvit;

namespace {

CrossCovarianceAttention AttentionOf(const Input &qkv, const Input &temperature, const Input &eps) {
  return {qkv.dim(0), qkv.dim(1), qkv.dim(2) / 3, temperature.dim(0), temperature, eps[0]};
}

}  // namespace

// qkv (B, N, 3C), temperature (heads, 1, 1), eps (1,) -> y (B, N, C), weights, products, 1 /
// lengths
PRODUCTS_KERNEL(CrossCovariance) {
  const Input qkv = args.in(), temperature = args.in(), eps = args.in();
  const Output y = args.out(), weights = args.out(), products = args.out(), lengths = args.out();
  AttentionOf(qkv, temperature, eps).Forward(qkv, {weights, products, lengths}, y);
}

PRODUCTS_KERNEL(CrossCovarianceGrad) {
  const Input qkv = args.in(), temperature = args.in(), eps = args.in(), weights = args.in(),
              products = args.in(), lengths = args.in(), dy = args.in();
  const Output dqkv = args.out(), dtemperature = args.out();
  AttentionOf(qkv, temperature, eps)
      .Backward(qkv, {weights, products, lengths}, dy, dqkv, dtemperature);
}
