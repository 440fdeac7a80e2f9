// Batch normalization of (rows, channels).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "sums.h"

namespace mindvit {

// What normalizes a channel: (x - mean) / sqrt(variance + eps) weight + bias
struct BatchNormOf {
  const float *weight, *bias, *mean, *variance;
  float eps;
};

// The same as x factor + offset, of each channel
struct Scaling {
  std::vector<float> factors, offsets;
};
Scaling FactorsAndOffsets(const BatchNormOf &of, int64_t channels);

void Normalize(const float *x, const BatchNormOf &of, int64_t rows, int64_t channels, float *y);

// Which rows count in the statistics: those of maps, `rows` each, whose number isn't 0; without
// maps all do
struct Counted {
  const float *maps = nullptr;
  int64_t count = 0, rows = 0;

  bool at(int64_t r) const { return maps == nullptr || maps[r / rows] != 0.0f; }
  // of `all` rows, at least 1
  int64_t number(int64_t all) const {
    if (maps == nullptr) return all;
    return std::max<int64_t>(1, rows * (count - std::count(maps, maps + count, 0.0f)));
  }
};

struct RunningStatistics {
  float *mean, *variance;
  float momentum;
};

// The batch's mean and, biased, variance; they move the running ones, as PyTorch's do
void Statistics(const float *x, int64_t rows, int64_t channels, const RunningStatistics &running,
                float *mean, float *variance, const Counted &counted = {});

struct BatchNormGrads {
  float *dx, *dweight, *dbias;
};

// The gradients of Normalize by the batch's own mean and variance; dx may be dy. then(r) follows
// each row.
template <typename Then>
void NormalizeGrad(const float *x, const BatchNormOf &of, const float *dy, int64_t rows,
                   int64_t channels, const BatchNormGrads &grads, const Then &then,
                   const Counted &counted = {}) {
  const float *weight = of.weight, *mean = of.mean;
  float *dx = grads.dx, *dweight = grads.dweight, *dbias = grads.dbias;
  std::vector<float> inverses(channels), factors(channels), offsets(channels), slopes(channels);
  float *inverse = inverses.data(), *factor = factors.data(), *offset = offsets.data(),
        *slope = slopes.data();
  for (int64_t c = 0; c < channels; ++c) inverse[c] = 1.0f / std::sqrt(of.variance[c] + of.eps);
  const auto sums = SumRows(rows, channels, kBlock, 2 * channels, [=](int64_t r, float *sum) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += dy[r * channels + c] * (x[r * channels + c] - mean[c]) * inverse[c];
      sum[channels + c] += dy[r * channels + c];
    }
  });
  std::copy(sums.begin(), sums.begin() + channels, dweight);
  std::copy(sums.begin() + channels, sums.end(), dbias);
  const int64_t number = counted.number(rows);
  for (int64_t c = 0; c < channels; ++c) {
    factor[c] = weight[c] * inverse[c];
    offset[c] = dbias[c] / number;
    slope[c] = inverse[c] * dweight[c] / number;
  }
  Rows(rows, channels, [&, factor, offset, slope](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float own = counted.at(r) ? 1.0f : 0.0f;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        dx[r * channels + c] =
            factor[c] *
            (dy[r * channels + c] - own * (offset[c] + (x[r * channels + c] - mean[c]) * slope[c]));
      then(r);
    }
  });
}

}  // namespace mindvit
