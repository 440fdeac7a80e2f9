// LayerNorm over the last axis: x (..., C), weight (C,), bias (C,).
#pragma once

#include <cmath>
#include <cstdint>

namespace mindvit {

struct Norm {
  const float *weight, *bias;
  float eps;
  int64_t channels;
};

// What the gradient of a row's norm needs
struct NormedRow {
  const float *weight;
  float mean, inverse;  // of the row: its mean and 1 / deviation
  int64_t channels;
};

// Of one row
inline void NormRow(const float *x, const Norm &norm, float *y, float *to_mean, float *to_inverse) {
  const float *weight = norm.weight, *bias = norm.bias;
  const int64_t channels = norm.channels;
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c) sum += x[c];
  const float mean = sum / channels;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < channels; ++c) squares += (x[c] - mean) * (x[c] - mean);
  const float inverse = 1.0f / std::sqrt(squares / channels + norm.eps);
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) y[c] = (x[c] - mean) * inverse * weight[c] + bias[c];
  *to_mean = mean;
  *to_inverse = inverse;
}

// dx = more + the gradient of x; adds to those of weight and bias. dx may be dy.
inline void NormRowGrad(const float *x, const NormedRow &row, const float *dy, const float *more,
                        float *dx, float *dweight, float *dbias) {
  const float *weight = row.weight;
  const float mean = row.mean, inverse = row.inverse;
  const int64_t channels = row.channels;
  float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t c = 0; c < channels; ++c) {
    const float g = dy[c] * weight[c];
    sum += g;
    dot += g * (x[c] - mean);
  }
  sum /= channels;
  dot *= inverse / channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float normal = (x[c] - mean) * inverse, d = dy[c];
    dweight[c] += d * normal;
    dbias[c] += d;
    dx[c] = (d * weight[c] - sum - normal * dot) * inverse + more[c];
  }
}

// The mean and 1 / deviation of each row
struct NormStatistics {
  const float *means, *inverses;
};

// Of all rows, shared out among threads
void NormRows(const float *x, const Norm &norm, int64_t rows, float *y, float *means,
              float *inverses);

// The gradients that NormRowsGrad gives
struct NormGrads {
  float *dx, *dweight, *dbias;
};

// dx = more + the gradient of x
void NormRowsGrad(const float *x, const float *weight, const NormStatistics &statistics,
                  const float *dy, const float *more, int64_t rows, int64_t channels,
                  const NormGrads &grads);

}  // namespace mindvit
