// XCiT's local patch interaction from end to end: x + drop_scale gamma
// conv2(bn(gelu(conv1(norm(x))))).

#include <algorithm>
#include <vector>

#include "batch_norm.h"
#include "conv.h"
#include "kernel.h"
#include "layer_norm.h"
#include "math.h"
#include "parallel.h"

using namespace mindvit;

namespace {

// The inputs: x (B, H, W, C), drop_scale (B,) or (1,), gamma (C,); LayerNorm's weight, bias and
// eps; weight (C, 1, 3, 3) and bias of the first depth-wise convolution; batch normalization's
// weight, bias, mean and variance, running ones that change forwards, then the batch's own,
// and numbers (3,): eps, momentum, 0 where statistics are constants for the gradient; weight and
// bias of the second convolution.
struct Local {
  const Input x, drop_scale, gamma, norm_weight, norm_bias, norm_eps, weight1, bias1, weight, bias;
  const Output mean, variance;
  const Input numbers, weight2, bias2;
  const ImageShape size;
  const int64_t rows, channels, rows_of_sample;
  const Norm norm;

  explicit Local(Args &args)
      : x(args.in()),
        drop_scale(args.in()),
        gamma(args.in()),
        norm_weight(args.in()),
        norm_bias(args.in()),
        norm_eps(args.in()),
        weight1(args.in()),
        bias1(args.in()),
        weight(args.in()),
        bias(args.in()),
        mean(args.changed()),
        variance(args.changed()),
        numbers(args.in()),
        weight2(args.in()),
        bias2(args.in()),
        size(ShapeOf(x)),
        rows(size.batch * size.height * size.width),
        channels(size.channels),
        rows_of_sample(rows / drop_scale.dim(0)),
        norm{norm_weight, norm_bias, norm_eps[0], channels} {}
};

// What is kept for the gradient: norm(x), means and 1 / deviations of its rows, conv1's result, its
// GELU, that normalized
template <typename T>
struct SavedLocal {
  const Tensor<T> normed, means, inverses, conv1, gelu, bn;
  explicit SavedLocal(Args &args)
      : normed(args.next<T>()),
        means(args.next<T>()),
        inverses(args.next<T>()),
        conv1(args.next<T>()),
        gelu(args.next<T>()),
        bn(args.next<T>()) {}
};

// What is kept, up to the GELU
void BeforeBatchNorm(const Local &local, const SavedLocal<float> &saved) {
  const int64_t line = local.size.row();
  const float *z = saved.conv1;
  float *g = saved.gelu;
  NormRows(local.x, local.norm, local.rows, saved.normed, saved.means, saved.inverses);
  Convolve(saved.normed, local.size, local.size, {local.weight1, local.bias1}, saved.conv1,
           [=](int64_t r) {
#pragma omp simd
             for (int64_t i = r * line; i < (r + 1) * line; ++i) g[i] = Gelu(z[i]);
           });
}

// out = x + drop_scale gamma conv2(from)
void LastConvolution(const Local &local, const float *from, float *out) {
  const int64_t channels = local.channels;
  const float *gamma = local.gamma;
  Convolve(from, local.size, local.size, {local.weight2, local.bias2}, out, [&](int64_t r) {
    for (int64_t pixel = r * local.size.width; pixel < (r + 1) * local.size.width; ++pixel) {
      const float factor = local.drop_scale[pixel / local.rows_of_sample],
                  *x = local.x + pixel * channels;
      float *to = out + pixel * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = x[c] + factor * gamma[c] * to[c];
    }
  });
}

}  // namespace

// -> the branch's result, what is kept, and the batch's mean and variance
KERNEL(LocalBranch) {
  const Local local(args);
  const Output out = args.out();
  const SavedLocal<float> saved(args);
  const Output mean = args.out(), variance = args.out();
  const int64_t channels = local.channels;
  BeforeBatchNorm(local, saved);
  Statistics(saved.gelu, local.rows, channels, {local.mean, local.variance, local.numbers[1]}, mean,
             variance);
  Normalize(saved.gelu, {local.weight, local.bias, mean, variance, local.numbers[0]}, local.rows,
            channels, saved.bn);
  LastConvolution(local, saved.bn, out);
}

// by the running statistics -> the branch's result, and a tensor like x to work with
KERNEL(LocalBranchPredict) {
  const Local local(args);
  const Output out = args.out(), work = args.out();
  const int64_t line = local.size.row(), channels = local.channels;
  const BatchNormOf of{local.weight, local.bias, local.mean, local.variance, local.numbers[0]};
  const auto [factors, offsets] = FactorsAndOffsets(of, channels);
  const float *factor = factors.data(), *offset = offsets.data();
  float *g = work;
  NormRows(local.x, local.norm, local.rows, out, g, g + local.rows);
  Convolve(out, local.size, local.size, {local.weight1, local.bias1}, g, [=](int64_t r) {
    for (int64_t start = r * line; start < (r + 1) * line; start += channels)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        g[start + c] = Gelu(g[start + c]) * factor[c] + offset[c];
  });
  LastConvolution(local, g, out);
}

// the inputs, with the statistics that count for the running ones -> what is kept
KERNEL(LocalBranchRecompute) {
  const Local local(args);
  const SavedLocal<float> saved(args);
  BeforeBatchNorm(local, saved);
  Normalize(saved.gelu, {local.weight, local.bias, local.mean, local.variance, local.numbers[0]},
            local.rows, local.channels, saved.bn);
}

namespace {

// The gradients of the second convolution and of gamma, which is moved into the weights: with G the
// gradient that these have without it, its own is the sum of weight G. d: drop_scale dout
void LastConvolutionGrad(const Local &local, const float *bn, const float *d,
                         const ConvGrads &grads, float *dgamma) {
  const int64_t channels = local.channels;
  std::vector<float> scaled(local.weight2.data, local.weight2 + 9 * channels);
  for (int64_t i = 0; i < 9 * channels; ++i) scaled[i] *= local.gamma[i / 9];
  ConvolveGrad(bn, local.size, local.size, scaled.data(), d, grads);
  for (int64_t c = 0; c < channels; ++c) {
    float sum = local.bias2[c] * grads.dbias[c];
    for (int64_t i = 9 * c; i < 9 * (c + 1); ++i) {
      sum += local.weight2[i] * grads.dweight[i];
      grads.dweight[i] *= local.gamma[c];
    }
    dgamma[c] = sum;
    grads.dbias[c] *= local.gamma[c];
  }
}

}  // namespace

// the inputs, with the statistics that count for the running ones; what was kept; the result's
// gradient
// -> the gradients of all but drop_scale, eps, these and numbers; two tensors like x to work with
KERNEL(LocalBranchGrad) {
  const Local local(args);
  const SavedLocal<const float> saved(args);
  const Input dout = args.in();
  const Output dx = args.out(), dgamma = args.out(), dnorm_weight = args.out(),
               dnorm_bias = args.out(), dweight1 = args.out(), dbias1 = args.out();
  const Output dweight = args.out(), dbias = args.out(), dweight2 = args.out(), dbias2 = args.out(),
               work1 = args.out(), work2 = args.out();
  const int64_t channels = local.channels, rows = local.rows;
  float *d = work1, *e = work2;
  const float *drop_scale = local.drop_scale, *z = saved.conv1;
  Rows(rows, channels, [=, &local](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float factor = drop_scale[r / local.rows_of_sample];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) d[r * channels + c] = factor * dout[r * channels + c];
    }
  });
  LastConvolutionGrad(local, saved.bn, d, {e, dweight2, dbias2}, dgamma);
  const BatchNormOf of{local.weight, nullptr, local.mean, local.variance, local.numbers[0]};
  const auto before_gelu = [=](int64_t r) {
#pragma omp simd
    for (int64_t i = r * channels; i < (r + 1) * channels; ++i) e[i] *= GeluSlope(z[i]);
  };
  NormalizeGrad(saved.gelu, of, e, rows, channels, {e, dweight, dbias}, before_gelu,
                {&local.numbers[2], 1, rows});
  ConvolveGrad(saved.normed, local.size, local.size, local.weight1, e, {d, dweight1, dbias1});
  NormRowsGrad(local.x, local.norm.weight, {saved.means, saved.inverses}, d, dout, rows, channels,
               {dx, dnorm_weight, dnorm_bias});
}
