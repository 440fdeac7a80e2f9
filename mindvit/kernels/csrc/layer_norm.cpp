#include "layer_norm.h"

#include <algorithm>

#include "kernel.h"
#include "parallel.h"
#include "sums.h"

namespace mindvit {

void NormRows(const float *x, const Norm &norm, int64_t rows, float *y, float *means,
              float *inverses) {
  const int64_t channels = norm.channels;
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      NormRow(x + r * channels, norm, y + r * channels, means + r, inverses + r);
  });
}

void NormRowsGrad(const float *x, const float *weight, const NormStatistics &statistics,
                  const float *dy, const float *more, int64_t rows, int64_t channels,
                  const NormGrads &grads) {
  const float *means = statistics.means, *inverses = statistics.inverses;
  float *dx = grads.dx;
  const auto sums = SumRows(rows, channels * 2, kBlock, 2 * channels, [=](int64_t r, float *sum) {
    const int64_t at = r * channels;
    NormRowGrad(x + at, {weight, means[r], inverses[r], channels}, dy + at, more + at, dx + at, sum,
                sum + channels);
  });
  std::copy(sums.begin(), sums.begin() + channels, grads.dweight);
  std::copy(sums.begin() + channels, sums.end(), grads.dbias);
}

}  // namespace mindvit

using namespace mindvit;

// -> y, and each row's mean and 1 / deviation
KERNEL(LayerNormForward) {
  const Input x = args.in(), weight = args.in(), bias = args.in(), eps = args.in();
  const Output y = args.out(), means = args.out(), inverses = args.out();
  NormRows(x, {weight, bias, eps[0], weight.dim(0)}, x.size() / weight.dim(0), y, means, inverses);
}

// -> dx + more, dweight, dbias
KERNEL(LayerNormGrad) {
  const Input x = args.in(), weight = args.in(), means = args.in(), inverses = args.in(),
              dy = args.in(), more = args.in();
  const Output dx = args.out(), dweight = args.out(), dbias = args.out();
  const int64_t channels = weight.dim(0);
  NormRowsGrad(x, weight, {means, inverses}, dy, more, x.size() / channels, channels,
               {dx, dweight, dbias});
}
