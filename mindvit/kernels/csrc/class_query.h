// A class token's attention to itself and to patches, whose keys and values are never formed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gemm.h"
#include "math.h"

namespace mindvit {

// Each sample's queries (heads, C), its class token (C,), and its patches, `patches` rows of C
// after `skip` others
struct ClassQueries {
  int64_t batch, heads, channels, rows, skip, patches;

  // a (heads, C) times the class token and the patches -> (heads, 1 + patches)
  void Times(const float *a, const float *cls, const float *y, float *to) const {
    gemm()('N', 'T', heads, patches, channels, 1.0f, a, channels, y, channels, 0.0f, to + 1,
           1 + patches);
    for (int64_t h = 0; h < heads; ++h) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) sum += a[h * channels + c] * cls[c];
      to[h * (1 + patches)] = sum;
    }
  }

  // a (heads, 1 + patches) times them -> (heads, C)
  void Mix(const float *a, const float *cls, const float *y, float *to) const {
    gemm()('N', 'N', heads, channels, patches, 1.0f, a + 1, 1 + patches, y, channels, 0.0f, to,
           channels);
    for (int64_t h = 0; h < heads; ++h)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[h * channels + c] += a[h * (1 + patches)] * cls[c];
  }

  // sample b of q (B, heads, C), class tokens (B, C), y (B, N, C) -> its weights (B, heads, 1 +
  // patches), what its queries see (B, heads, C)
  void Forward(int64_t b, const float *q, const float *cls, const float *y, float *weights,
               float *seen) const {
    const int64_t each = 1 + patches;
    const float *from = y + (b * rows + skip) * channels;
    float *p = weights + b * heads * each;
    Times(q + b * heads * channels, cls + b * channels, from, p);
    for (int64_t h = 0; h < heads; ++h) SoftmaxRow(p + h * each, each);
    Mix(p, cls + b * channels, from, seen + b * heads * channels);
  }

  struct Seen {
    const float *q, *cls, *y, *weights;
  };
  struct Grads {
    float *dq, *dcls, *dy;
  };

  // the gradients of sample b
  void Backward(int64_t b, const Seen &of, const float *dseen, const Grads &grads) const {
    const int64_t each = 1 + patches, c = channels;
    std::vector<float> slopes(heads * each);
    float *s = slopes.data(), *dy = grads.dy, *to = dy + (b * rows + skip) * c,
          *dcls = grads.dcls + b * c;
    const float *from = of.y + (b * rows + skip) * c, *cls = of.cls + b * c,
                *query = of.q + b * heads * c;
    const float *p = of.weights + b * heads * each, *d = dseen + b * heads * c;
    Times(d, cls, from, s);
    for (int64_t h = 0; h < heads; ++h)
      SoftmaxRowGrad(p + h * each, s + h * each, s + h * each, each);
    Mix(s, cls, from, grads.dq + b * heads * c);
    std::fill(dy + b * rows * c, to, 0.0f);
    gemm()('T', 'N', patches, c, heads, 1.0f, p + 1, each, d, c, 0.0f, to, c);
    gemm()('T', 'N', patches, c, heads, 1.0f, s + 1, each, query, c, 1.0f, to, c);
    std::fill(dcls, dcls + c, 0.0f);
    for (int64_t h = 0; h < heads; ++h)
#pragma omp simd
      for (int64_t i = 0; i < c; ++i)
        dcls[i] += p[h * each] * d[h * c + i] + s[h * each] * query[h * c + i];
  }
};

}  // namespace mindvit
