#include "batch_norm.h"

#include "kernel.h"
#include "math.h"

namespace mindvit {

Scaling FactorsAndOffsets(const BatchNormOf &of, int64_t channels) {
  Scaling found{std::vector<float>(channels), std::vector<float>(channels)};
  for (int64_t c = 0; c < channels; ++c) {
    found.factors[c] = of.weight[c] / std::sqrt(of.variance[c] + of.eps);
    found.offsets[c] = of.bias[c] - of.mean[c] * found.factors[c];
  }
  return found;
}

void Normalize(const float *x, const BatchNormOf &of, int64_t rows, int64_t channels, float *y) {
  const auto [factors, offsets] = FactorsAndOffsets(of, channels);
  const float *factor = factors.data(), *offset = offsets.data();
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        y[r * channels + c] = x[r * channels + c] * factor[c] + offset[c];
  });
}

void Statistics(const float *x, int64_t rows, int64_t channels, const RunningStatistics &running,
                float *mean, float *variance, const Counted &counted) {
  const int64_t number = counted.number(rows);
  const auto average = [=](const auto &add, float *to) {
    const auto sums = SumRows(rows, channels, kBlock, channels, [=](int64_t r, float *sum) {
      if (counted.at(r)) add(r, sum);
    });
    for (int64_t c = 0; c < channels; ++c) to[c] = sums[c] / number;
  };
  average([=](int64_t r, float *sum) { AddTo(sum, x + r * channels, channels); }, mean);
  average(
      [=](int64_t r, float *sum) {
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c)
          sum[c] += (x[r * channels + c] - mean[c]) * (x[r * channels + c] - mean[c]);
      },
      variance);
  const float unbiased = static_cast<float>(number) / std::max<int64_t>(1, number - 1);
  for (int64_t c = 0; c < channels; ++c) {
    running.mean[c] += running.momentum * (mean[c] - running.mean[c]);
    running.variance[c] += running.momentum * (variance[c] * unbiased - running.variance[c]);
  }
}

}  // namespace mindvit

using namespace mindvit;

namespace {

// counts: a number for each of the maps that the rows belong to, 0 for padding
Counted CountedBy(const Input &counts, int64_t rows) {
  return {counts, counts.size(), rows / counts.size()};
}

}  // namespace

// x (..., C), weight, bias, running mean and variance (C,) each, counts, numbers (2,): eps,
// momentum
// -> y, the batch's mean (C,) and, biased, variance (C,), which normalize it and move the running
// ones where they lie
KERNEL(BatchNormForward) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  const Output running_mean = args.changed(), running_variance = args.changed();
  const Input counts = args.in(), numbers = args.in();
  const Output y = args.out(), mean = args.out(), variance = args.out();
  const int64_t channels = weight.dim(0), rows = x.size() / channels;
  Statistics(x, rows, channels, {running_mean, running_variance, numbers[1]}, mean, variance,
             CountedBy(counts, rows));
  Normalize(x, {weight, bias, mean, variance, numbers[0]}, rows, channels, y);
}

KERNEL(BatchNormPredict) {
  const Input x = args.in(), weight = args.in(), bias = args.in(), mean = args.in(),
              variance = args.in(), numbers = args.in();
  const Output y = args.out();
  const int64_t channels = weight.dim(0);
  Normalize(x, {weight, bias, mean, variance, numbers[0]}, x.size() / channels, channels, y);
}

KERNEL(BatchNormGrad) {
  const Input x = args.in(), weight = args.in(), counts = args.in(), numbers = args.in(),
              mean = args.in(), variance = args.in(), dy = args.in();
  const Output dx = args.out(), dweight = args.out(), dbias = args.out();
  const int64_t channels = weight.dim(0), rows = x.size() / channels;
  NormalizeGrad(
      x, {weight, nullptr, mean, variance, numbers[0]}, dy, rows, channels, {dx, dweight, dbias},
      [](int64_t) {}, CountedBy(counts, rows));
}
