// Sigmoid focal loss (Lin et al. 2017, section 3.2) with alpha 1/4 and exponent 2, of rows of
// logits of which at most one is to be 1.

#include <algorithm>

#include "kernel.h"
#include "math.h"
#include "parallel.h"

using namespace mindvit;

namespace {

constexpr float kAlpha = 0.25f;

// log(1 + e) for e in 0..1, as 2 artanh(e / (2 + e)): what the series leaves out is below 1e-8
inline float LogOnePlus(float e) {
  const float s = e / (2.0f + e), t = s * s;
  float p = 2.0f / 13;
  p = p * t + 2.0f / 11;
  p = p * t + 2.0f / 9;
  p = p * t + 2.0f / 7;
  p = p * t + 2.0f / 5;
  p = p * t + 2.0f / 3;
  return s * (p * t + 2.0f);
}

// The loss of a logit that is to be 0, and its slope. One that is to be 1 is the mirror image, with
// the other share of alpha.
struct Miss {
  float loss, slope;
  Miss(float x, float alpha) {
    const float e = Exp(-std::fabs(x)), share = 1.0f / (1.0f + e), p = x > 0 ? share : e * share;
    const float cost = (x > 0 ? x : 0.0f) + LogOnePlus(e);
    loss = alpha * p * p * cost;
    slope = alpha * p * p * (2.0f * (1.0f - p) * cost + p);
  }
};

}  // namespace

// logits (B, N, C), labels (B, N), below 0: all are to be 0; counted (B, N), 0: no loss -> (B, N)
KERNEL(FocalLoss) {
  const Input logits = args.in(), labels = args.in(), counted = args.in();
  const Output loss = args.out();
  const int64_t classes = logits.dim(2);
  Rows(labels.size(), classes * 30, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *x = logits + r * classes;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < classes; ++c) sum += Miss(x[c], 1.0f - kAlpha).loss;
      if (labels[r] >= 0) {
        const float own = x[static_cast<int64_t>(labels[r])];
        sum += Miss(-own, kAlpha).loss - Miss(own, 1.0f - kAlpha).loss;
      }
      loss[r] = counted[r] != 0 ? sum : 0.0f;
    }
  });
}

// the same and dloss (B, N) -> dlogits
KERNEL(FocalLossGrad) {
  const Input logits = args.in(), labels = args.in(), counted = args.in(), gradient = args.in();
  const Output dlogits = args.out();
  const int64_t classes = logits.dim(2);
  Rows(labels.size(), classes * 30, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *x = logits + r * classes;
      float *dx = dlogits + r * classes;
      const float factor = counted[r] != 0 ? gradient[r] : 0.0f;
      if (factor == 0) {
        std::fill(dx, dx + classes, 0.0f);
        continue;
      }
#pragma omp simd
      for (int64_t c = 0; c < classes; ++c) dx[c] = factor * Miss(x[c], 1.0f - kAlpha).slope;
      if (labels[r] >= 0) {
        const int64_t own = static_cast<int64_t>(labels[r]);
        dx[own] = -factor * Miss(-x[own], kAlpha).slope;
      }
    }
  });
}
