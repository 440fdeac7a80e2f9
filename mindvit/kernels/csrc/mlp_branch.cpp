// The residual branch of an MLP of LayerNorm, from end to end.

#include "branch.h"
#include "gemm.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

struct ExactGelu {
  static float Value(float x) { return Gelu(x); }
  static float Slope(float x) { return GeluSlope(x); }
};

// x * sigmoid(1.702 x)
struct QuickGelu {
  static float Sigmoid(float x) {
    const float e = Exp(-std::fabs(x)), s = 1.0f / (1.0f + e);
    return x > 0 ? s : e * s;
  }
  static float Value(float x) { return x * Sigmoid(1.702f * x); }
  static float Slope(float x) {
    const float s = Sigmoid(1.702f * x);
    return s * (1.0f + 1.702f * x * (1.0f - s));
  }
};

// -> the branch's result, and, while training, for the gradient: y = norm(x), its rows' means and 1
// / deviations, h = y W1^T
template <typename Activation>
void MlpForward(Args &args, bool training) {
  const BranchEnds ends(args);
  const float *bias = ends.bias1;
  float *out = args.out(), *y = nullptr, *means = nullptr, *inverses = nullptr, *h = nullptr;
  if (training) y = args.out(), means = args.out(), inverses = args.out(), h = args.out();
  const int64_t channels = ends.channels, hidden = ends.hidden;
  const auto products = ends.Forwards();
  Tiles(ends.rows, 2 * channels * hidden, [&](int64_t first, int64_t count, int) {
    float *normal = y ? y + first * channels : Scratch(0, count * channels),
          *a = Scratch(1, count * hidden), *before = h ? h + first * hidden : a;
    ends.Begin(products, first, count, normal, means, inverses, before);
    for (int64_t r = 0; r < count; ++r)
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i)
        a[r * hidden + i] = Activation::Value(before[r * hidden + i] + bias[i]);
    ends.End(products, first, count, a, out);
  });
}

// The inputs, what was kept, the result's gradient -> the gradients, and three tensors to work
// with: d (..., C), dh (..., hidden), a (..., hidden)
template <typename Activation>
void MlpBackward(Args &args) {
  const BranchEnds ends(args);
  const Input y = args.in(), means = args.in(), inverses = args.in(), h = args.in(),
              dout = args.in();
  const BranchEndGrads grads(args);
  const Output d = args.out(), dh = args.out(), a = args.out();
  const BranchBackward backward{ends, grads, dout};
  const int64_t hidden = ends.hidden;
  const float *bias = ends.bias1;
  PartialSums sums(Threads(), backward.summed());
  Tiles(ends.rows, 2 * ends.channels * hidden, [&](int64_t first, int64_t count, int part) {
    backward.End(first, count, d, dh);
    for (int64_t r = first; r < first + count; ++r) {
      const float *from = h + r * hidden;
      float *value = a + r * hidden, *slope = dh + r * hidden;
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) {
        const float z = from[i] + bias[i];
        value[i] = Activation::Value(z);
        slope[i] *= Activation::Slope(z);
      }
    }
    backward.Begin(first, count, {means, inverses}, dh, d, sums.of(part));
  });
  backward.Weights(y, dh, a, d, sums.Sums());
}

}  // namespace

PRODUCTS_KERNEL(MlpGelu) { MlpForward<ExactGelu>(args, true); }
PRODUCTS_KERNEL(MlpGeluPredict) { MlpForward<ExactGelu>(args, false); }
PRODUCTS_KERNEL(MlpGeluGrad) { MlpBackward<ExactGelu>(args); }
PRODUCTS_KERNEL(MlpQuickGelu) { MlpForward<QuickGelu>(args, true); }
PRODUCTS_KERNEL(MlpQuickGeluPredict) { MlpForward<QuickGelu>(args, false); }
PRODUCTS_KERNEL(MlpQuickGeluGrad) { MlpBackward<QuickGelu>(args); }
