// The residual branches of self-attention, of all tokens or in groups, and of cross-covariance
// attention, from end to end.

#include "attention.h"
#include "branch.h"
#include "cross_covariance.h"
#include "gemm.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

// What a branch gives: its result, and for the gradient y = norm(x), its rows' means and 1 /
// deviations, null where nobody asks for them; qkv (B, N, 3C) and a (B, N, C) are needed on the
// way. In bfloat16 the gradient finds rows of y and a rounded (HalfRows::Round).
struct BranchOutputs {
  float *out = nullptr, *y = nullptr, *means = nullptr, *inverses = nullptr, *qkv, *a;

  BranchOutputs(Args &args, Pass pass) {
    if (pass != Pass::kRecompute) out = args.out();
    if (pass != Pass::kPredict) y = args.out(), means = args.out(), inverses = args.out();
    qkv = args.out();
    a = args.out();
  }
};

// attend(qkv, a) is the attention
template <typename Attend>
void BranchForward(const BranchEnds &ends, const BranchOutputs &to, const Attend &attend) {
  const int64_t channels = ends.channels, inner = ends.inner, hidden = ends.hidden;
  if (ends.Wide()) {
    float *y = to.y ? to.y : Scratch(0, ends.rows * channels);
    ends.BeginWide(ends.bias1, y, to.means, to.inverses, to.qkv);
    attend(to.qkv, to.a);
    if (to.out) ends.EndWide(to.a, to.out);
    return;
  }
  const auto products = ends.Forwards(to.out != nullptr);
  const bool halves = to.y && UsesBFloat16();
  Tiles(ends.rows, channels * inner, [&](int64_t first, int64_t count, int) {
    float *qkv = to.qkv + first * inner,
          *y = to.y ? to.y + first * channels : Scratch(0, count * channels);
    ends.Begin(products, first, count, y, to.means, to.inverses, qkv);
    for (int64_t r = 0; r < count; ++r) AddTo(qkv + r * inner, ends.bias1, inner);
    if (halves) HalfRows::Round(y, count, channels);
  });
  attend(to.qkv, to.a);
  if (!to.out && !halves) return;
  Tiles(ends.rows, channels * hidden, [&](int64_t first, int64_t count, int) {
    float *a = to.a + first * hidden;
    if (to.out) ends.End<float>(products, first, count, a, to.out);
    if (halves) HalfRows::Round(a, count, hidden);
  });
}

// What was kept of the forward pass
struct SavedAttention {
  const Input y, means, inverses, qkv, a;
  explicit SavedAttention(Args &args)
      : y(args.in()), means(args.in()), inverses(args.in()), qkv(args.in()), a(args.in()) {}
};

// The gradients, and three tensors to work with: d and da (B, N, C), dqkv (B, N, 3C)
struct BranchGrads {
  const BranchEndGrads grads;
  const Output d, da, dqkv;
  explicit BranchGrads(Args &args) : grads(args), d(args.out()), da(args.out()), dqkv(args.out()) {}
};

// attend_grad(qkv, da, dqkv) is the attention's own gradient
template <typename AttendGrad>
void BranchBackwards(const BranchEnds &ends, const SavedAttention &saved, const float *dout,
                     const BranchGrads &to, const AttendGrad &attend_grad) {
  const BranchBackward backward{ends, to.grads, dout};
  const int64_t channels = ends.channels, inner = ends.inner, hidden = ends.hidden;
  const bool halves = UsesBFloat16();
  Tiles(ends.rows, channels * hidden, [&](int64_t first, int64_t count, int) {
    backward.End(first, count, to.d + first * channels, to.da + first * hidden);
  });
  attend_grad(saved.qkv, to.da, to.dqkv);
  PartialSums sums(Threads(), backward.summed());
  Tiles(ends.rows, channels * inner, [&](int64_t first, int64_t count, int part) {
    float *dqkv = to.dqkv + first * inner, *d = to.d + first * channels;
    backward.InputGrad<float>(first, count, dqkv);
    backward.Begin(first, count, {saved.means, saved.inverses}, dqkv, d, sums.of(part));
    if (halves) HalfRows::Round(dqkv, count, inner), HalfRows::Round(d, count, channels);
  });
  const auto rounded = HalfRows::Rounded;
  if (halves)
    backward.Weights(rounded(saved.y, channels), rounded(to.dqkv, inner), rounded(saved.a, hidden),
                     rounded(to.d, channels), sums.Sums());
  else
    backward.Weights<const float *>(saved.y, to.dqkv, saved.a, to.d, sums.Sums());
}

// numbers and bias: see SelfAttention
SelfAttention SelfAttentionOf(const BranchEnds &ends, const Input &numbers, const Input &bias) {
  return {ends.x.dim(0), ends.x.dim(1), ends.channels, numbers, bias};
}

CrossCovarianceAttention CovarianceOf(const BranchEnds &ends, const Input &temperature,
                                      const Input &eps) {
  return {ends.x.dim(0), ends.x.dim(1), ends.channels, temperature.dim(0), temperature, eps[0]};
}

void SelfForward(Args &args, Pass pass) {
  const BranchEnds ends(args);
  const Input numbers = args.in(), bias = args.in();
  const SelfAttention attention = SelfAttentionOf(ends, numbers, bias);
  const BranchOutputs to(args, pass);
  BranchForward(ends, to, [&](const float *qkv, float *a) { attention.Forward(qkv, a); });
}

void CovarianceForward(Args &args, Pass pass) {
  const BranchEnds ends(args);
  const Input temperature = args.in(), eps = args.in();
  const CrossCovarianceAttention attention = CovarianceOf(ends, temperature, eps);
  const BranchOutputs to(args, pass);
  const Output weights = args.out(), products = args.out(), lengths = args.out();
  BranchForward(ends, to, [&](const float *qkv, float *a) {
    attention.Forward(qkv, {weights, products, lengths}, a);
  });
}

}  // namespace

// What a branch begins and ends with, numbers, bias -> its result, y, means, 1 / deviations, qkv, a
PRODUCTS_KERNEL(AttentionBranch) { SelfForward(args, Pass::kTrain); }

// -> the branch's result, qkv, a
PRODUCTS_KERNEL(AttentionBranchPredict) { SelfForward(args, Pass::kPredict); }

// -> all that AttentionBranch gives but the result
PRODUCTS_KERNEL(AttentionBranchRecompute) { SelfForward(args, Pass::kRecompute); }

PRODUCTS_KERNEL(AttentionBranchGrad) {
  const BranchEnds ends(args);
  const Input numbers = args.in(), bias = args.in();
  const SelfAttention attention = SelfAttentionOf(ends, numbers, bias);
  const SavedAttention saved(args);
  const Input dout = args.in();
  const BranchGrads to(args);
  const Output dbias = args.out();
  BranchBackwards(ends, saved, dout, to, [&](const float *qkv, const float *da, float *dqkv) {
    attention.Backward(qkv, da, dqkv, dbias);
  });
}

// What a branch begins and ends with, temperature (heads, 1, 1), eps (1,) -> its result, y, means,
// 1 / deviations, qkv, a, weights, products, 1 / lengths
PRODUCTS_KERNEL(CovarianceBranch) { CovarianceForward(args, Pass::kTrain); }

// -> the branch's result, qkv, a, weights, products, 1 / lengths
PRODUCTS_KERNEL(CovarianceBranchPredict) { CovarianceForward(args, Pass::kPredict); }

// -> all that CovarianceBranch gives but the result
PRODUCTS_KERNEL(CovarianceBranchRecompute) { CovarianceForward(args, Pass::kRecompute); }

PRODUCTS_KERNEL(CovarianceBranchGrad) {
  const BranchEnds ends(args);
  const Input temperature = args.in(), eps = args.in();
  const CrossCovarianceAttention attention = CovarianceOf(ends, temperature, eps);
  const SavedAttention saved(args);
  const Input weights = args.in(), products = args.in(), lengths = args.in(), dout = args.in();
  const BranchGrads to(args);
  const Output dtemperature = args.out();
  BranchBackwards(ends, saved, dout, to, [&](const float *qkv, const float *da, float *dqkv) {
    attention.Backward(qkv, {weights, products, lengths}, da, dqkv, dtemperature);
  });
}
