#include "branch.h"

#include <algorithm>

#include "gemm.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

namespace mindvit {

void BranchEnds::Norms(int64_t first, int64_t count, float *y, float *means,
                       float *inverses) const {
  float mean, inverse;
  for (int64_t r = 0; r < count; ++r)
    NormRow(x + (first + r) * channels, norm, y + r * channels, means ? means + first + r : &mean,
            inverses ? inverses + first + r : &inverse);
}

void BranchEnds::Begin(const Products &products, int64_t first, int64_t count, float *y,
                       float *means, float *inverses, float *h) const {
  Norms(first, count, y, means, inverses);
  products.first.Times(count, y, h);
}

void BranchEnds::BeginWide(const float *bias, float *y, float *means, float *inverses,
                           float *h) const {
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    Norms(first, last - first, y + first * channels, means, inverses);
  });
  Product(y, weight1, bias, {rows, channels, inner}, h);
}

void BranchEnds::EndWide(const float *a, float *out) const {
  Product(a, weight2, nullptr, {rows, hidden, channels}, out);
  Rows(rows, channels,
       [=](int64_t first, int64_t last, int) { Residuals(first, last - first, out); });
}

void BranchEnds::Residuals(int64_t first, int64_t count, float *out) const {
  const float *scale = branch.gamma.data(), *bias = bias2;
  for (int64_t r = first; r < first + count; ++r) {
    const float factor = drop_scale[r / branch.rows_of_sample], *from = x + r * channels;
    float *to = out + r * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) to[c] = from[c] + factor * scale[c] * (to[c] + bias[c]);
  }
}

void BranchBackward::End(int64_t first, int64_t count, float *d, float *da) const {
  const int64_t channels = ends.channels, rows_of_sample = ends.branch.rows_of_sample;
  float *scaled = Scratch(0, count * channels);
  const float *gamma = ends.branch.gamma.data();
  for (int64_t r = 0; r < count; ++r) {
    const float factor = ends.drop_scale[(first + r) / rows_of_sample],
                *from = dout + (first + r) * channels;
    float *to = d + r * channels, *with_gamma = scaled + r * channels;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = factor * from[c];
      with_gamma[c] = gamma[c] * to[c];
    }
  }
  products.last.Times(count, scaled, da);
}

void BranchBackward::Begin(int64_t first, int64_t count, const NormStatistics &statistics,
                           const float *dh, const float *d, float *sums) const {
  const int64_t channels = ends.channels, inner = ends.inner;
  float *dx = grads.dx;
  AddRows(first, first + count, kBlock, summed(), sums, [&](int64_t r, float *sum) {
    const int64_t at = r * channels;
    const NormedRow row{ends.norm.weight, statistics.means[r], statistics.inverses[r], channels};
    NormRowGrad(ends.x + at, row, dx + at, dout + at, dx + at, sum, sum + channels);
    AddTo(sum + 2 * channels, dh + (r - first) * inner, inner);
    AddTo(sum + 2 * channels + inner, d + (r - first) * channels, channels);
  });
}

// With G = d^T a, the gradient of W2 is gamma G, and gamma's needs no product of its own: each row
// of W2 times that of G
void BranchBackward::BiasesAndGamma(const std::vector<float> &sums) const {
  const int64_t channels = ends.channels, inner = ends.inner, hidden = ends.hidden,
                gammas = grads.dgamma.dim(0);
  const float *sum = sums.data();
  std::copy(sum, sum + channels, grads.dnorm_weight.data);
  std::copy(sum + channels, sum + 2 * channels, grads.dnorm_bias.data);
  std::copy(sum + 2 * channels, sum + 2 * channels + inner, grads.dbias1.data);
  std::copy(sum + 2 * channels + inner, sum + summed(), grads.dbias2.data);
  std::vector<float> dots(channels);
  Rows(channels, hidden, [&](int64_t first, int64_t last, int) {
    for (int64_t c = first; c < last; ++c) {
      float *g = grads.dweight2 + c * hidden, dot = 0;
      const float *weight = ends.weight2 + c * hidden, gamma = ends.branch.gamma[c];
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < hidden; ++i) {
        dot += weight[i] * g[i];
        g[i] *= gamma;
      }
      dots[c] = dot + ends.bias2[c] * grads.dbias2[c];
      grads.dbias2[c] *= gamma;
    }
  });
  std::fill(grads.dgamma.data, grads.dgamma + gammas, 0.0f);
  for (int64_t c = 0; c < channels; ++c) grads.dgamma[c % gammas] += dots[c];
}

}  // namespace mindvit
