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
void Weights(const Heads &size, const Side &q, const Side &k, const Added &added, int64_t b,
             int64_t h, float *p) {
  const int64_t depth = size.depth, m = q.tokens, n = k.tokens;
  gemm()('N', 'T', m, n, depth, size.scale, q.at(b, h, depth), q.stride, k.at(b, h, depth),
         k.stride, 0.0f, p, n);
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
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      Weights(size, q, k, added, b, h, p);
      gemm()('N', 'N', m, depth, n, 1.0f, p, n, v.at(b, h, depth), v.stride, 0.0f,
             y.at(b, h, depth), y.stride);
    }
  });
}

void AttendGrad(const Heads &size, const Side &q, const Side &k, const Side &v, const Added &added,
                const Side &dy, const AttentionGrads &grads) {
  if (UsesBFloat16()) return AttendGradInBFloat16(size, q, k, v, added, dy, grads);
  const int64_t depth = size.depth, batch = size.batch, m = q.tokens, n = k.tokens;
  const float scale = size.scale;
  const SideGrad &dq = grads.dq, &dk = grads.dk, &dv = grads.dv;
  BiasGrad dbias(grads.dbias, batch, m * n);
  Rows(size.heads * batch, m * n * 2, [&](int64_t first, int64_t last, int part) {
    float *p = Scratch(0, m * n), *d = Scratch(1, m * n);
    for (int64_t u = first; u < last; ++u) {
      const int64_t h = u / batch, b = u % batch;
      Weights(size, q, k, added, b, h, p);
      gemm()('T', 'N', n, depth, m, 1.0f, p, n, dy.at(b, h, depth), dy.stride, 0.0f,
             dv.at(b, h, depth), dv.stride);
      gemm()('N', 'T', m, n, depth, 1.0f, dy.at(b, h, depth), dy.stride, v.at(b, h, depth),
             v.stride, 0.0f, d, n);
      for (int64_t r = 0; r < m; ++r) SoftmaxRowGrad(p + r * n, d + r * n, d + r * n, n);
      if (float *to = dbias.At(u, first, part)) AddTo(to, d, m * n);
      gemm()('N', 'N', m, depth, n, scale, d, n, k.at(b, h, depth), k.stride, 0.0f,
             dq.at(b, h, depth), dq.stride);
      gemm()('T', 'N', n, depth, m, scale, d, n, q.at(b, h, depth), q.stride, 0.0f,
             dk.at(b, h, depth), dk.stride);
    }
  });
  dbias.Join();
}

void SelfAttention::Forward(const float *qkv, const Added &added, float *y) const {
  const int64_t width = 3 * channels;
  const Side q{qkv, tokens, width}, k{qkv + channels, tokens, width},
      v{qkv + 2 * channels, tokens, width};
  Attend({batch, heads, channels / heads, scale}, q, k, v, added, {y, tokens, channels});
}

void SelfAttention::Backward(const float *qkv, const Added &added, const float *dy, float *dqkv,
                             float *dbias) const {
  const int64_t width = 3 * channels;
  const Side q{qkv, tokens, width}, k{qkv + channels, tokens, width},
      v{qkv + 2 * channels, tokens, width};
  const AttentionGrads grads{{dqkv, tokens, width},
                             {dqkv + channels, tokens, width},
                             {dqkv + 2 * channels, tokens, width},
                             dbias};
  AttendGrad({batch, heads, channels / heads, scale}, q, k, v, added, {dy, tokens, channels},
             grads);
}

}  // namespace mindvit

using namespace mindvit;

namespace {

// numbers (2,): scale, heads
SelfAttention SelfAttentionOf(const Input &qkv, const Input &numbers) {
  return {qkv.dim(0), qkv.dim(1), qkv.dim(2) / 3, static_cast<int64_t>(numbers[1]), numbers[0]};
}

}  // namespace

// qkv (B, N, 3C), numbers -> y (B, N, C)
PRODUCTS_KERNEL(Attention) {
  const Input qkv = args.in(), numbers = args.in();
  const Output y = args.out();
  SelfAttentionOf(qkv, numbers).Forward(qkv, kNothing, y);
}

PRODUCTS_KERNEL(AttentionGrad) {
  const Input qkv = args.in(), numbers = args.in(), dy = args.in();
  const Output dqkv = args.out();
  SelfAttentionOf(qkv, numbers).Backward(qkv, kNothing, dy, dqkv, nullptr);
}

// qkv, numbers, bias (heads, N, N), mask (groups, 1, 1, N): see Added -> y
PRODUCTS_KERNEL(BiasedAttention) {
  const Input qkv = args.in(), numbers = args.in(), bias = args.in(), mask = args.in();
  const Output y = args.out();
  SelfAttentionOf(qkv, numbers).Forward(qkv, {bias, mask, mask.dim(0)}, y);
}

PRODUCTS_KERNEL(BiasedAttentionGrad) {
  const Input qkv = args.in(), numbers = args.in(), bias = args.in(), mask = args.in(),
              dy = args.in();
  const Output dqkv = args.out(), dbias = args.out();
  SelfAttentionOf(qkv, numbers).Backward(qkv, {bias, mask, mask.dim(0)}, dy, dqkv, dbias);
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
