// CrossViT's fusion: a branch's class token, projected to the other branch's width, attends to that
// branch's patches and is projected back.

#include <algorithm>
#include <vector>

#include "class_query.h"
#include "gemm.h"
#include "kernel.h"
#include "layer_norm.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

using Values = std::vector<float>;

// The gradient of a norm of few rows, `stride` values apart, whose statistics are taken again
void FewRowsNormGrad(const float *x, int64_t stride, const Norm &norm, int64_t rows,
                     const float *dy, const float *more, const NormGrads &grads) {
  const int64_t channels = norm.channels;
  Values again(channels);
  for (int64_t r = 0; r < rows; ++r) {
    NormedRow row{norm.weight, 0, 0, channels};
    NormRow(x + r * stride, norm, again.data(), &row.mean, &row.inverse);
    NormRowGrad(x + r * stride, row, dy + r * channels, more + r * channels,
                grads.dx + r * channels, grads.dweight, grads.dbias);
  }
}

struct ProjectionGrads {
  const Output dnorm_weight, dnorm_bias, dweight, dbias;
  explicit ProjectionGrads(Args &args)
      : dnorm_weight(args.out()), dnorm_bias(args.out()), dweight(args.out()), dbias(args.out()) {}
};

// Linear of GELU of LayerNorm, for one row a sample
struct Projection {
  const Input norm_weight, norm_bias, weight, bias;
  const Norm norm;
  const int64_t outputs;

  Projection(Args &args, float eps)
      : norm_weight(args.in()),
        norm_bias(args.in()),
        weight(args.in()),
        bias(args.in()),
        norm{norm_weight, norm_bias, eps, norm_weight.dim(0)},
        outputs(weight.dim(0)) {}

  void Inside(const float *x, int64_t stride, int64_t rows, float *normal, float *g) const {
    float mean, inverse;
    for (int64_t r = 0; r < rows; ++r) {
      NormRow(x + r * stride, norm, normal + r * norm.channels, &mean, &inverse);
      for (int64_t c = 0; c < norm.channels; ++c)
        g[r * norm.channels + c] = Gelu(normal[r * norm.channels + c]);
    }
  }

  Values Forward(const float *x, int64_t stride, int64_t rows) const {
    Values normal(rows * norm.channels), g(normal.size()), y(rows * outputs);
    Inside(x, stride, rows, normal.data(), g.data());
    Product(g.data(), weight, bias, {rows, norm.channels, outputs}, y.data());
    return y;
  }

  // dy -> dx
  Values Backward(const float *x, int64_t stride, int64_t rows, const float *dy,
                  const ProjectionGrads &grads) const {
    const int64_t channels = norm.channels;
    Values normal(rows * channels), g(normal.size()), d(normal.size()), zeros(normal.size(), 0.0f);
    Inside(x, stride, rows, normal.data(), g.data());
    WeightGrad(g.data(), dy, {rows, channels, outputs}, grads.dweight, grads.dbias);
    gemm()('N', 'N', rows, channels, outputs, 1.0f, dy, outputs, weight, channels, 0.0f, d.data(),
           channels);
    for (size_t i = 0; i < d.size(); ++i) d[i] *= GeluSlope(normal[i]);
    std::fill(grads.dnorm_weight.data, grads.dnorm_weight + channels, 0.0f);
    std::fill(grads.dnorm_bias.data, grads.dnorm_bias + channels, 0.0f);
    FewRowsNormGrad(x, stride, norm, rows, d.data(), zeros.data(),
                    {d.data(), grads.dnorm_weight, grads.dnorm_bias});
    return d;
  }
};

// The inputs, in the order in which both kernels take them
struct Fusion {
  const Input own, other, drop_scale,
      eps;  // tokens (B, N, C) of the branch and (B, M, D) of the other one, a factor for each
            // sample (B,) or (1,), (1,)
  const Projection to;  // C -> D
  const Input norm_weight, norm_bias, wq, bq, wk, wv, bv, wo, bo;
  const Projection from;  // D -> C
  const Input numbers;    // (2,): scale, heads
  const int64_t batch, width, d, m, heads, depth, own_sample;
  const float scale;
  const Norm norm;
  const ClassQueries queries;

  explicit Fusion(Args &args)
      : own(args.in()),
        other(args.in()),
        drop_scale(args.in()),
        eps(args.in()),
        to(args, eps[0]),
        norm_weight(args.in()),
        norm_bias(args.in()),
        wq(args.in()),
        bq(args.in()),
        wk(args.in()),
        wv(args.in()),
        bv(args.in()),
        wo(args.in()),
        bo(args.in()),
        from(args, eps[0]),
        numbers(args.in()),
        batch(own.dim(0)),
        width(own.dim(2)),
        d(other.dim(2)),
        m(other.dim(1)),
        heads(static_cast<int64_t>(numbers[1])),
        depth(d / heads),
        own_sample(own.dim(1) * width),
        scale(numbers[0]),
        norm{norm_weight, norm_bias, eps[0], d},
        queries{batch, heads, d, m, 1, m - 1} {}

  float factor(int64_t sample) const { return drop_scale[drop_scale.dim(0) == 1 ? 0 : sample]; }

  // c (B, D) -> its norm
  Values Normal(const float *c) const {
    Values normal(batch * d);
    float mean, inverse;
    for (int64_t b = 0; b < batch; ++b)
      NormRow(c + b * d, norm, normal.data() + b * d, &mean, &inverse);
    return normal;
  }
};

// What is kept for the gradient: the class token in the other width (B, D), its queries (B, D),
// these times Wk (B, heads, D), weights (B, heads, M), what each head sees (B, heads, D), its
// values (B, D), the class token after attention (B, D), the norm of the patches (B, M, D), means
// and 1 / deviations (B, M)
template <typename T>
struct SavedFusion {
  const Tensor<T> cls, q, queries, weights, seen, values, after, normed, means, inverses;
  explicit SavedFusion(Args &args)
      : cls(args.next<T>()),
        q(args.next<T>()),
        queries(args.next<T>()),
        weights(args.next<T>()),
        seen(args.next<T>()),
        values(args.next<T>()),
        after(args.next<T>()),
        normed(args.next<T>()),
        means(args.next<T>()),
        inverses(args.next<T>()) {}
};

// The gradients of the inputs but drop_scale, eps and numbers, and (B, M, D) to work with
struct FusionGrads {
  const Output down, dother;
  const ProjectionGrads to;
  const Output dnorm_weight, dnorm_bias, dwq, dbq, dwk, dwv, dbv, dwo, dbo;
  const ProjectionGrads from;
  const Output dnormed;
  explicit FusionGrads(Args &args)
      : down(args.out()),
        dother(args.out()),
        to(args),
        dnorm_weight(args.out()),
        dnorm_bias(args.out()),
        dwq(args.out()),
        dbq(args.out()),
        dwk(args.out()),
        dwv(args.out()),
        dbv(args.out()),
        dwo(args.out()),
        dbo(args.out()),
        from(args),
        dnormed(args.out()) {}
};

// dafter (B, D), the gradient of the class token after attention -> that of what each head sees (B,
// heads, D); and the gradients of Wv and Wo
Values SeenGrad(const Fusion &f, const SavedFusion<const float> &saved, const Values &dafter,
                const FusionGrads &grads) {
  const int64_t batch = f.batch, d = f.d, heads = f.heads, depth = f.depth;
  Values dproduct(dafter), dvalues(batch * d), dseen(batch * heads * d);
  for (int64_t i = 0; i < batch * d; ++i) dproduct[i] *= f.factor(i / d);
  WeightGrad(saved.values, dproduct.data(), {batch, d, d}, grads.dwo, grads.dbo);
  gemm()('N', 'N', batch, d, d, 1.0f, dproduct.data(), d, f.wo, d, 0.0f, dvalues.data(), d);
  for (int64_t h = 0; h < heads; ++h) {
    const float *dv = dvalues.data() + h * depth;
    gemm()('N', 'N', batch, d, depth, 1.0f, dv, d, f.wv + h * depth * d, d, 0.0f,
           dseen.data() + h * d, heads * d);
    gemm()('T', 'N', depth, d, batch, 1.0f, dv, d, saved.seen + h * d, heads * d, 0.0f,
           grads.dwv + h * depth * d, d);
  }
  std::fill(grads.dbv.data, grads.dbv + d, 0.0f);
  for (int64_t i = 0; i < batch * d; ++i) grads.dbv[i % d] += dvalues[i];
  return dseen;
}

// The gradients of queries times Wk (B, heads, D) and of the class token's norm (B, D); and the
// gradients of all tokens, but for the class tokens' own way
void TokensGrad(const Fusion &f, const SavedFusion<const float> &saved, const Input &dout,
                const Input &more_own, const Input &more_other, const Values &normal,
                const Values &dseen, const FusionGrads &grads, Values *dqueries, Values *dnormal) {
  const int64_t d = f.d, m = f.m, own = f.own_sample, sample = dout.dim(1) * f.width;
  PartialSums lines(Threads(), 2 * d);
  const Values zeros(d, 0.0f);
  const bool more = more_other.size() > 1;
  Rows(f.batch, m * d * 4, [&](int64_t first, int64_t last, int part) {
    for (int64_t b = first; b < last; ++b) {
      f.queries.Backward(b, {saved.queries, normal.data(), saved.normed, saved.weights},
                         dseen.data(), {dqueries->data(), dnormal->data(), grads.dnormed});
      const float *first_more = more ? more_other + b * m * d : zeros.data();
      std::copy(first_more, first_more + d,
                grads.dother + b * m * d);  // the other branch's class token was not seen
      AddRows(b * m + 1, (b + 1) * m, kBlock, 2 * d, lines.of(part), [&](int64_t r, float *sum) {
        const NormedRow row{f.norm.weight, saved.means[r], saved.inverses[r], d};
        NormRowGrad(f.other + r * d, row, grads.dnormed + r * d,
                    more ? more_other + r * d : zeros.data(), grads.dother + r * d, sum, sum + d);
      });
      if (more_own.size() > 1)
        std::copy(more_own + b * own, more_own + (b + 1) * own, grads.down + b * own);
      else
        std::fill(grads.down + b * own, grads.down + (b + 1) * own, 0.0f);
      AddTo(grads.down + b * own + f.width, dout + b * sample + f.width,
            sample - f.width);  // the class token is a new one
    }
  });
  const Values sums = lines.Sums();
  std::copy(sums.begin(), sums.begin() + d, grads.dnorm_weight.data);
  std::copy(sums.begin() + d, sums.end(), grads.dnorm_bias.data);
}

// dqueries (B, heads, D) -> added to dnormal (B, D); and the gradients of Wq and Wk
void QueryGrad(const Fusion &f, const SavedFusion<const float> &saved, const Values &normal,
               const Values &dqueries, const FusionGrads &grads, Values *dnormal) {
  const int64_t batch = f.batch, d = f.d, heads = f.heads, depth = f.depth;
  Values dq(batch * d);
  for (int64_t h = 0; h < heads; ++h) {
    const float *from = dqueries.data() + h * d;
    gemm()('N', 'T', batch, depth, d, f.scale, from, heads * d, f.wk + h * depth * d, d, 0.0f,
           dq.data() + h * depth, d);
    gemm()('T', 'N', depth, d, batch, f.scale, saved.q + h * depth, d, from, heads * d, 0.0f,
           grads.dwk + h * depth * d, d);
  }
  WeightGrad(normal.data(), dq.data(), {batch, d, d}, grads.dwq, grads.dbq);
  gemm()('N', 'N', batch, d, d, 1.0f, dq.data(), d, f.wq, d, 1.0f, dnormal->data(), d);
}

}  // namespace

// -> own tokens with the new class token, or that alone, whichever the result's shape has room for;
// and what is kept for the gradient
PRODUCTS_KERNEL(CrossFusion) {
  const Fusion f(args);
  const Output out = args.out();
  const SavedFusion<float> saved(args);
  const int64_t batch = f.batch, d = f.d, m = f.m, heads = f.heads, depth = f.depth,
                sample = out.dim(1) * f.width;
  const Values projected = f.to.Forward(f.own, f.own_sample, batch);
  std::copy(projected.begin(), projected.end(), saved.cls.data);
  const Values normal = f.Normal(saved.cls);
  Product(normal.data(), f.wq, f.bq, {batch, d, d}, saved.q);
  for (int64_t h = 0; h < heads; ++h)
    gemm()('N', 'N', batch, d, depth, f.scale, saved.q + h * depth, d, f.wk + h * depth * d, d,
           0.0f, saved.queries + h * d, heads * d);
  Rows(batch, m * d * 2, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      for (int64_t r = b * m + 1; r < (b + 1) * m; ++r)
        NormRow(f.other + r * d, f.norm, saved.normed + r * d, saved.means + r, saved.inverses + r);
      f.queries.Forward(b, saved.queries, normal.data(), saved.normed, saved.weights, saved.seen);
      std::copy(f.own + b * f.own_sample, f.own + b * f.own_sample + sample, out + b * sample);
    }
  });
  for (int64_t h = 0; h < heads; ++h)
    gemm()('N', 'T', batch, depth, d, 1.0f, saved.seen + h * d, heads * d, f.wv + h * depth * d, d,
           0.0f, saved.values + h * depth, d);
  for (int64_t i = 0; i < batch * d; ++i) saved.values[i] += f.bv[i % d];
  Product(saved.values, f.wo, f.bo, {batch, d, d}, saved.after);
  for (int64_t i = 0; i < batch * d; ++i)
    saved.after[i] = saved.cls[i] + f.factor(i / d) * saved.after[i];
  const Values found = f.from.Forward(saved.after, d, batch);
  for (int64_t b = 0; b < batch; ++b)
    std::copy(found.begin() + b * f.width, found.begin() + (b + 1) * f.width, out + b * sample);
}

// the inputs, what was kept, the result's gradient, and more of own and of other tokens' gradients,
// or (1,) where there is no more -> the gradients
PRODUCTS_KERNEL(CrossFusionGrad) {
  const Fusion f(args);
  const SavedFusion<const float> saved(args);
  const Input dout = args.in(), more_own = args.in(), more_other = args.in();
  const FusionGrads grads(args);
  const int64_t batch = f.batch, d = f.d, width = f.width, sample = dout.dim(1) * width;
  const Values normal = f.Normal(saved.cls);
  Values dnew(batch * width), dqueries(batch * f.heads * d), dnormal(batch * d), dcls(batch * d);
  for (int64_t b = 0; b < batch; ++b)
    std::copy(dout + b * sample, dout + b * sample + width, dnew.begin() + b * width);
  const Values dafter = f.from.Backward(saved.after, d, batch, dnew.data(), grads.from);
  const Values dseen = SeenGrad(f, saved, dafter, grads);
  TokensGrad(f, saved, dout, more_own, more_other, normal, dseen, grads, &dqueries, &dnormal);
  QueryGrad(f, saved, normal, dqueries, grads, &dnormal);
  FewRowsNormGrad(saved.cls, d, f.norm, batch, dnormal.data(), dafter.data(),
                  {dcls.data(), grads.dnorm_weight, grads.dnorm_bias});
  const Values dfirst = f.to.Backward(f.own, f.own_sample, batch, dcls.data(), grads.to);
  for (int64_t b = 0; b < batch; ++b)
    AddTo(grads.down + b * f.own_sample, dfirst.data() + b * width, width);
}
