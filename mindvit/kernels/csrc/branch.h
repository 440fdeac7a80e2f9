// Residual branches from end to end: x + drop_scale gamma f(norm(x)), where f is an MLP or
// attention.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm.h"
#include "kernel.h"
#include "layer_norm.h"
#include "residual.h"

namespace mindvit {

// What a forward pass gives: its result with what the gradient needs of it, one of both, or the
// other. To recompute is to find what was not kept.
enum class Pass { kTrain, kPredict, kRecompute };

// What they begin and end with: x (..., C), drop_scale (B,), gamma (C,) or (1,), the norm's weight,
// bias and eps, and f's first and last product: weight (inner, C), bias (inner,), weight (C,
// hidden), bias (C,).
struct BranchEnds {
  const Input x, drop_scale, gamma, norm_weight, norm_bias, norm_eps, weight1, bias1, weight2,
      bias2;
  const Branch branch;
  const Norm norm;
  const int64_t rows, channels, inner, hidden;

  // the weights as right operands: forwards x W^T, the last one where it is `wanted`, backwards dy
  // W
  struct Products {
    const RightOperand first, last;
  };
  Products Forwards(bool wanted) const {
    return {{'T', channels, inner, weight1, rows},
            {'T', hidden, channels, weight2, wanted ? rows : 0}};
  }
  Products Backwards() const {
    return {{'N', inner, channels, weight1, rows}, {'N', channels, hidden, weight2, rows}};
  }

  explicit BranchEnds(Args &args)
      : x(args.in()),
        drop_scale(args.in()),
        gamma(args.in()),
        norm_weight(args.in()),
        norm_bias(args.in()),
        norm_eps(args.in()),
        weight1(args.in()),
        bias1(args.in()),
        weight2(args.in()),
        bias2(args.in()),
        branch(x, gamma, drop_scale),
        norm{norm_weight, norm_bias, norm_eps[0], branch.channels},
        rows(branch.rows),
        channels(branch.channels),
        inner(weight1.dim(0)),
        hidden(weight2.dim(1)) {}

  // `count` rows from `first`: y = norm(x), h = y W1^T; y and h begin with these rows, means and
  // inverses (null: not wanted) with all rows
  void Begin(const Products &products, int64_t first, int64_t count, float *y, float *means,
             float *inverses, float *h) const;

  // Whether the next two are the faster ones
  bool Wide() const { return FewRows({rows, channels, inner}); }

  // the same as Begin, of all rows, h with a bias or without one (null); threads share out columns
  void BeginWide(const float *bias, float *y, float *means, float *inverses, float *h) const;

  // out = x + drop_scale gamma (a W2^T + b2); a begins with these rows
  template <typename T>
  void End(const Products &products, int64_t first, int64_t count, const T *a, float *out) const {
    products.last.Times(count, a, out + first * channels);
    Residuals(first, count, out);
  }

  // the same as End, of all rows; threads share out columns
  void EndWide(const float *a, float *out) const;

  // out = x + drop_scale gamma (out + b2)
  void Residuals(int64_t first, int64_t count, float *out) const;

 private:
  void Norms(int64_t first, int64_t count, float *y, float *means, float *inverses) const;
};

// The gradients of what a branch begins and ends with
struct BranchEndGrads {
  const Output dx, dgamma, dnorm_weight, dnorm_bias, dweight1, dbias1, dweight2, dbias2;

  explicit BranchEndGrads(Args &args)
      : dx(args.out()),
        dgamma(args.out()),
        dnorm_weight(args.out()),
        dnorm_bias(args.out()),
        dweight1(args.out()),
        dbias1(args.out()),
        dweight2(args.out()),
        dbias2(args.out()) {}
};

// Their computation, tile by tile. dout: the gradient of the branch's result
struct BranchBackward {
  const BranchEnds &ends;
  const BranchEndGrads &grads;
  const float *dout;
  const BranchEnds::Products products = ends.Backwards();

  // d = drop_scale dout, da = gamma d W2; both begin with these rows
  void End(int64_t first, int64_t count, float *d, float *da) const;

  // what is summed up over rows: the gradients of the norm's weight and bias, and of the products'
  // biases
  int64_t summed() const { return 3 * ends.channels + ends.inner; }

  // dx = dh W1; dh begins with these rows
  template <typename T>
  void InputGrad(int64_t first, int64_t count, const T *dh) const {
    products.first.Times(count, dh, grads.dx + first * ends.channels);
  }

  // dx = dout + the gradient that comes through the norm, of dx = dh W1; dh and d begin with these
  // rows
  void Begin(int64_t first, int64_t count, const NormStatistics &statistics, const float *dh,
             const float *d, float *sums) const;

  // the gradients of all weights. y, a: what the first and the last product were given; sums: see
  // summed. Of: const float *, or HalfRows
  template <typename Of>
  void Weights(const Of &y, const Of &dh, const Of &a, const Of &d,
               const std::vector<float> &sums) const {
    WeightGrad(y, dh, {ends.rows, ends.channels, ends.inner}, grads.dweight1, nullptr);
    WeightGrad(a, d, {ends.rows, ends.hidden, ends.channels}, grads.dweight2, nullptr);
    BiasesAndGamma(sums);
  }

  void BiasesAndGamma(const std::vector<float> &sums) const;
};

}  // namespace mindvit
