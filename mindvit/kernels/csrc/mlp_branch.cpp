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

// The branch's result, and for the gradient y = norm(x), its rows' means and 1 / deviations, h = y
// W1^T; in bfloat16 y and h are halves, two in the room of a float. Null: not wanted
struct MlpOutputs {
  float *out = nullptr, *y = nullptr, *means = nullptr, *inverses = nullptr, *h = nullptr;

  MlpOutputs(Args &args, Pass pass) {
    if (pass != Pass::kRecompute) out = args.out();
    if (pass != Pass::kPredict)
      y = args.out(), means = args.out(), inverses = args.out(), h = args.out();
  }
};

Half *Halves(float *memory) { return reinterpret_cast<Half *>(memory); }
const Half *Halves(const float *memory) { return reinterpret_cast<const Half *>(memory); }

template <typename Activation>
void ForwardTile(const BranchEnds &ends, const BranchEnds::Products &products, const MlpOutputs &to,
                 int64_t first, int64_t count) {
  const int64_t channels = ends.channels, hidden = ends.hidden;
  const float *bias = ends.bias1;
  float *normal = to.y ? to.y + first * channels : Scratch(0, count * channels),
        *a = Scratch(1, count * hidden), *before = to.h ? to.h + first * hidden : a;
  ends.Begin(products, first, count, normal, to.means, to.inverses, before);
  if (!to.out) return;
  for (int64_t r = 0; r < count; ++r)
#pragma omp simd
    for (int64_t i = 0; i < hidden; ++i)
      a[r * hidden + i] = Activation::Value(before[r * hidden + i] + bias[i]);
  ends.End<float>(products, first, count, a, to.out);
}

template <typename Activation>
void ForwardTileOfHalves(const BranchEnds &ends, const BranchEnds::Products &products,
                         const MlpOutputs &to, int64_t first, int64_t count) {
  const int64_t channels = ends.channels, hidden = ends.hidden;
  const float *bias = ends.bias1;
  float *normal = Scratch(0, count * channels), *h = Scratch(1, count * hidden);
  Half *a = Halves(Scratch(2, count * hidden / 2 + 1));
  ends.Begin(products, first, count, normal, to.means, to.inverses, h);
  if (to.y) {
    RoundRow(normal, count * channels, Halves(to.y) + first * channels);
    RoundRow(h, count * hidden, Halves(to.h) + first * hidden);
  }
  if (!to.out) return;
  for (int64_t r = 0; r < count; ++r) {
    float *row = h + r * hidden;
#pragma omp simd
    for (int64_t i = 0; i < hidden; ++i) row[i] = Activation::Value(row[i] + bias[i]);
    RoundRow(row, hidden, a + r * hidden);
  }
  ends.End<Half>(products, first, count, a, to.out);
}

template <typename Activation>
void WideForward(const BranchEnds &ends, const MlpOutputs &to) {
  const int64_t rows = ends.rows, hidden = ends.hidden;
  const float *bias = ends.bias1;
  float *normal = to.y ? to.y : Scratch(0, rows * ends.channels), *a = Scratch(1, rows * hidden),
        *before = to.h ? to.h : a;
  ends.BeginWide(nullptr, normal, to.means, to.inverses, before);
  if (!to.out) return;
  Rows(rows, hidden, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i)
        a[r * hidden + i] = Activation::Value(before[r * hidden + i] + bias[i]);
  });
  ends.EndWide(a, to.out);
}

template <typename Activation>
void MlpForward(Args &args, Pass pass) {
  const BranchEnds ends(args);
  const MlpOutputs to(args, pass);
  if (ends.Wide()) return WideForward<Activation>(ends, to);
  const auto products = ends.Forwards(to.out != nullptr);
  const auto tile = UsesBFloat16() ? ForwardTileOfHalves<Activation> : ForwardTile<Activation>;
  Tiles(ends.rows, 2 * ends.channels * ends.hidden,
        [&](int64_t first, int64_t count, int) { tile(ends, products, to, first, count); });
}

// What was kept of the forward pass, and tensors to work with: d (..., C), dh and a (..., hidden);
// all but means and inverses are halves in bfloat16
struct MlpBetween {
  const float *y, *means, *inverses, *h;
  float *d, *dh, *a;
};

template <typename Activation>
void BackwardTile(const BranchBackward &backward, const MlpBetween &of, int64_t first,
                  int64_t count, float *sums) {
  const int64_t channels = backward.ends.channels, hidden = backward.ends.hidden;
  const float *bias = backward.ends.bias1;
  float *d = of.d + first * channels, *dh = of.dh + first * hidden;
  backward.End(first, count, d, dh);
  for (int64_t r = 0; r < count; ++r) {
    const float *from = of.h + (first + r) * hidden;
    float *value = of.a + (first + r) * hidden, *slope = dh + r * hidden;
#pragma omp simd
    for (int64_t i = 0; i < hidden; ++i) {
      const float z = from[i] + bias[i];
      value[i] = Activation::Value(z);
      slope[i] *= Activation::Slope(z);
    }
  }
  backward.InputGrad<float>(first, count, dh);
  backward.Begin(first, count, {of.means, of.inverses}, dh, d, sums);
}

template <typename Activation>
void BackwardTileOfHalves(const BranchBackward &backward, const MlpBetween &of, int64_t first,
                          int64_t count, float *sums) {
  const int64_t channels = backward.ends.channels, hidden = backward.ends.hidden;
  const float *bias = backward.ends.bias1;
  float *d = Scratch(1, count * channels), *dh = Scratch(2, count * hidden),
        *z = Scratch(3, hidden);
  Half *rounded = Halves(of.dh) + first * hidden;
  backward.End(first, count, d, dh);
  for (int64_t r = 0; r < count; ++r) {
    float *slope = dh + r * hidden;
    ExpandRow(Halves(of.h) + (first + r) * hidden, hidden, z);
#pragma omp simd
    for (int64_t i = 0; i < hidden; ++i) {
      const float before = z[i] + bias[i];
      z[i] = Activation::Value(before);
      slope[i] *= Activation::Slope(before);
    }
    RoundRow(z, hidden, Halves(of.a) + (first + r) * hidden);
    RoundRow(slope, hidden, rounded + r * hidden);
  }
  RoundRow(d, count * channels, Halves(of.d) + first * channels);
  backward.InputGrad<Half>(first, count, rounded);
  backward.Begin(first, count, {of.means, of.inverses}, dh, d, sums);
}

// The inputs, what was kept, the result's gradient -> the gradients, and three tensors to work with
template <typename Activation>
void MlpBackward(Args &args) {
  const BranchEnds ends(args);
  const Input y = args.in(), means = args.in(), inverses = args.in(), h = args.in(),
              dout = args.in();
  const BranchEndGrads grads(args);
  const Output d = args.out(), dh = args.out(), a = args.out();
  const BranchBackward backward{ends, grads, dout};
  const MlpBetween of{y, means, inverses, h, d, dh, a};
  const bool halves = UsesBFloat16();
  const auto tile = halves ? BackwardTileOfHalves<Activation> : BackwardTile<Activation>;
  PartialSums sums(Threads(), backward.summed());
  Tiles(ends.rows, 2 * ends.channels * ends.hidden, [&](int64_t first, int64_t count, int part) {
    tile(backward, of, first, count, sums.of(part));
  });
  const int64_t channels = ends.channels, hidden = ends.hidden;
  if (halves)
    backward.Weights<HalfRows>({Halves(of.y), channels}, {Halves(of.dh), hidden},
                               {Halves(of.a), hidden}, {Halves(of.d), channels}, sums.Sums());
  else
    backward.Weights<const float *>(of.y, of.dh, of.a, of.d, sums.Sums());
}

}  // namespace

PRODUCTS_KERNEL(MlpGelu) { MlpForward<ExactGelu>(args, Pass::kTrain); }
PRODUCTS_KERNEL(MlpGeluPredict) { MlpForward<ExactGelu>(args, Pass::kPredict); }
PRODUCTS_KERNEL(MlpGeluRecompute) { MlpForward<ExactGelu>(args, Pass::kRecompute); }
PRODUCTS_KERNEL(MlpGeluGrad) { MlpBackward<ExactGelu>(args); }
PRODUCTS_KERNEL(MlpQuickGelu) { MlpForward<QuickGelu>(args, Pass::kTrain); }
PRODUCTS_KERNEL(MlpQuickGeluPredict) { MlpForward<QuickGelu>(args, Pass::kPredict); }
PRODUCTS_KERNEL(MlpQuickGeluRecompute) { MlpForward<QuickGelu>(args, Pass::kRecompute); }
PRODUCTS_KERNEL(MlpQuickGeluGrad) { MlpBackward<QuickGelu>(args); }
