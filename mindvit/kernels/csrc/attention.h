// Multi-head attention of operands that lie in rows of tokens.
#pragma once

#include <cstdint>

namespace mindvit {

// One operand of attention: rows of tokens, `stride` values from token to token, heads side by
// side. T: const float, or float for what is written.
template <typename T>
struct Operand {
  T *data;
  int64_t tokens, stride;
  T *at(int64_t batch, int64_t head, int64_t depth) const {
    return data + batch * tokens * stride + head * depth;
  }
};

using Side = Operand<const float>;
using SideGrad = Operand<float>;

struct Heads {
  int64_t batch, heads, depth;
  float scale;
  int64_t groups;  // sample b has the bias of group b % groups
};

// y = softmax(scale q k^T + bias) v; bias (groups, heads, M, N) or null. The weights are not kept: to
// compute them again for the gradient takes no longer than to write and to read them.
void Attend(const Heads &size, const Side &q, const Side &k, const Side &v, const float *bias,
            const SideGrad &y);

struct AttentionGrads {
  SideGrad dq, dk, dv;
  float *dbias;  // or null
};

void AttendGrad(const Heads &size, const Side &q, const Side &k, const Side &v, const float *bias,
                const Side &dy, const AttentionGrads &grads);

// The same in bfloat16
void AttendInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                      const float *bias, const SideGrad &y);
void AttendGradInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                          const float *bias, const Side &dy, const AttentionGrads &grads);

// Self-attention of qkv (B, N, 3C): queries, keys and values, each C = heads x depth
struct SelfAttention {
  int64_t batch, tokens, channels, heads;
  float scale;

  void Forward(const float *qkv, float *y) const;
  void Backward(const float *qkv, const float *dy, float *dqkv) const;

  // bias (groups, heads, N, N), see Heads
  void Forward(const float *qkv, const float *bias, int64_t groups, float *y) const;
  void Backward(const float *qkv, const float *bias, int64_t groups, const float *dy, float *dqkv,
                float *dbias) const;
};

}  // namespace mindvit
