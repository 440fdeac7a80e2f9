#include "residual.h"

#include <algorithm>

#include "sums.h"

using namespace mindvit;

KERNEL(Sum) {
  const Input x = args.in(), y = args.in();
  const Output out = args.out();
  Rows(x.size(), 1, [=](int64_t first, int64_t last, int) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) out[i] = x[i] + y[i];
  });
}

KERNEL(Residual) {
  const Input x = args.in(), y = args.in(), gamma = args.in(), drop_scale = args.in();
  const Output out = args.out();
  EachScaled(Branch(y, gamma, drop_scale), drop_scale,
             [=](int64_t i, float scale) { out[i] = x[i] + scale * y[i]; });
}

KERNEL(ResidualGrad) {
  const Input gamma = args.in(), drop_scale = args.in(), dout = args.in();
  const Output dy = args.out();
  EachScaled(Branch(dout, gamma, drop_scale), drop_scale,
             [=](int64_t i, float scale) { dy[i] = scale * dout[i]; });
}

KERNEL(ResidualGammaGrad) {
  const Input y = args.in(), gamma = args.in(), drop_scale = args.in(), dout = args.in();
  const Output dgamma = args.out();
  const Branch branch(y, gamma, drop_scale);
  const int64_t channels = branch.channels, each = branch.rows_of_sample, gammas = dgamma.dim(0);
  const auto sums = SumRows(branch.rows, channels, kBlock, channels, [=](int64_t r, float *sum) {
    const float factor = drop_scale[r / each];
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c)
      sum[c] += factor * y[r * channels + c] * dout[r * channels + c];
  });
  std::fill(dgamma.data, dgamma + gammas, 0.0f);
  for (int64_t c = 0; c < channels; ++c) dgamma[c % gammas] += sums[c];
}
