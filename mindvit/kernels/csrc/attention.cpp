#include "attention.h"

#include <algorithm>
#include <vector>

#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"

namespace mindvit {

namespace {

// p (M, N) = the weights of head h of sample b
void Weights(const Heads &size, const HeadOf<const float> &q, const HeadOf<const float> &k,
             int64_t m, int64_t n, const Added &added, int64_t b, int64_t h, float *p) {
  gemm()('N', 'T', m, n, size.depth, size.scale, q.data, q.stride, k.data, k.stride, 0.0f, p, n);
  added.To(p, n, b, h, 0, m, m, n);
  for (int64_t r = 0; r < m; ++r) SoftmaxRow(p + r * n, n);
}

}  // namespace

void Attend(const Heads &size, const Side &q, const Side &k, const Side &v, const Added &added,
            const SideGrad &y) {
  if (UsesBFloat16()) return AttendInBFloat16(size, q, k, v, added, y);
  const int64_t heads = size.heads, depth = size.depth, m = q.tokens, n = k.tokens;
  Rows(size.batch * heads, m * n * 2, [&](int64_t first, int64_t last, int) {
    float *p = Scratch(0, m * n);
    const OneHead one(q, depth);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      const auto query = one.Read(OneHead::kQ, q, b, h), key = one.Read(OneHead::kK, k, b, h),
                 value = one.Read(OneHead::kV, v, b, h);
      const auto result = one.Room(OneHead::kY, y, b, h);
      Weights(size, query, key, m, n, added, b, h, p);
      gemm()('N', 'N', m, depth, n, 1.0f, p, n, value.data, value.stride, 0.0f, result.data,
             result.stride);
      one.Write(OneHead::kY, y, b, h);
    }
  });
}

void AttendGrad(const Heads &size, const Side &q, const Side &k, const Side &v, const Added &added,
                const Side &dy, const AttentionGrads &grads) {
  if (UsesBFloat16()) return AttendGradInBFloat16(size, q, k, v, added, dy, grads);
  const int64_t depth = size.depth, batch = size.batch, m = q.tokens, n = k.tokens;
  const float scale = size.scale;
  BiasGrad dbias(grads.dbias, batch, m * n);
  Rows(size.heads * batch, m * n * 2, [&](int64_t first, int64_t last, int part) {
    float *p = Scratch(0, m * n), *d = Scratch(1, m * n);
    const OneHead one(q, depth);
    for (int64_t u = first; u < last; ++u) {
      const int64_t h = u / batch, b = u % batch;
      const auto query = one.Read(OneHead::kQ, q, b, h), key = one.Read(OneHead::kK, k, b, h),
                 value = one.Read(OneHead::kV, v, b, h), slope = one.Read(OneHead::kY, dy, b, h);
      const auto dq = one.Room(OneHead::kDQ, grads.dq, b, h),
                 dk = one.Room(OneHead::kDK, grads.dk, b, h),
                 dv = one.Room(OneHead::kDV, grads.dv, b, h);
      Weights(size, query, key, m, n, added, b, h, p);
      gemm()('T', 'N', n, depth, m, 1.0f, p, n, slope.data, slope.stride, 0.0f, dv.data, dv.stride);
      gemm()('N', 'T', m, n, depth, 1.0f, slope.data, slope.stride, value.data, value.stride, 0.0f,
             d, n);
      for (int64_t r = 0; r < m; ++r) SoftmaxRowGrad(p + r * n, d + r * n, d + r * n, n);
      if (float *to = dbias.At(u, first, part)) AddTo(to, d, m * n);
      gemm()('N', 'N', m, depth, n, scale, d, n, key.data, key.stride, 0.0f, dq.data, dq.stride);
      gemm()('T', 'N', n, depth, m, scale, d, n, query.data, query.stride, 0.0f, dk.data,
             dk.stride);
      one.Write(OneHead::kDQ, grads.dq, b, h);
      one.Write(OneHead::kDK, grads.dk, b, h);
      one.Write(OneHead::kDV, grads.dv, b, h);
    }
  });
  dbias.Join();
}

}  // namespace mindvit

using namespace mindvit;

// qkv (B, N, 3C), numbers and bias: see SelfAttention -> y (B, N, C)
PRODUCTS_KERNEL(Attention) {
  const Input qkv = args.in(), numbers = args.in(), bias = args.in();
  const Output y = args.out();
  SelfAttention(qkv.dim(0), qkv.dim(1), qkv.dim(2) / 3, numbers, bias).Forward(qkv, y);
}

PRODUCTS_KERNEL(AttentionGrad) {
  const Input qkv = args.in(), numbers = args.in(), bias = args.in(), dy = args.in();
  const Output dqkv = args.out(), dbias = args.out();
  SelfAttention(qkv.dim(0), qkv.dim(1), qkv.dim(2) / 3, numbers, bias)
      .Backward(qkv, dy, dqkv, dbias);
}

// q (B, M, C), k and v (B, N, C), numbers -> y (B, M, C)
PRODUCTS_KERNEL(MixedAttention) {
  const Input q = args.in(), k = args.in(), v = args.in(), numbers = args.in();
  const Output y = args.out();
  const int64_t m = q.dim(1), n = k.dim(1), channels = q.dim(2),
                heads = static_cast<int64_t>(numbers[1]);
  Attend({q.dim(0), heads, channels / heads, numbers[0]}, {q, m, channels}, {k, n, channels},
         {v, n, channels}, kNothing, {y, m, channels});
}

PRODUCTS_KERNEL(MixedAttentionGrad) {
  const Input q = args.in(), k = args.in(), v = args.in(), numbers = args.in(), dy = args.in();
  const Output dq = args.out(), dk = args.out(), dv = args.out();
  const int64_t batch = q.dim(0), m = q.dim(1), n = k.dim(1), channels = q.dim(2),
                heads = static_cast<int64_t>(numbers[1]);
  AttendGrad({batch, heads, channels / heads, numbers[0]}, {q, m, channels}, {k, n, channels},
             {v, n, channels}, kNothing, {dy, m, channels},
             {{dq, m, channels}, {dk, n, channels}, {dv, n, channels}, nullptr});
}
