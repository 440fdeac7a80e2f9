// x + drop_scale gamma y: x and y (..., C), gamma (C,) or (1,), drop_scale: a factor for each
// sample, (B,).
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "parallel.h"

namespace mindvit {

struct Branch {
  int64_t rows, channels, rows_of_sample;
  std::vector<float> gamma;  // one for each channel

  template <typename T>
  Branch(const Tensor<T> &y, const Input &given, const Input &drop_scale)
      : rows(y.size() / y.dim(-1)),
        channels(y.dim(-1)),
        rows_of_sample(rows / drop_scale.dim(0)),
        gamma(channels) {
    for (int64_t c = 0; c < channels; ++c) gamma[c] = given[given.dim(0) == 1 ? 0 : c];
  }
};

// write(place, drop_scale gamma) for every value of the branch
template <typename Write>
void EachScaled(const Branch &branch, const float *drop_scale, const Write &write) {
  const float *gamma = branch.gamma.data();
  const int64_t channels = branch.channels, each = branch.rows_of_sample;
  Rows(branch.rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float factor = drop_scale[r / each];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) write(r * channels + c, factor * gamma[c]);
    }
  });
}

}  // namespace mindvit
