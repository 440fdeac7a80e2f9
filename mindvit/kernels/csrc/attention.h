// Multi-head attention of operands that lie in rows of tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "math.h"
#include "parallel.h"

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
};

// What is added to the scores: a bias (heads, M, N), and for each key that of mask (groups, N), of
// which sample b has row b % groups. Null: nothing
struct Added {
  const float *bias, *mask;
  int64_t groups;

  // to the scores of `rows` queries, the first of which is `query`; p: `stride` values a row
  void To(float *p, int64_t stride, int64_t b, int64_t h, int64_t query, int64_t rows, int64_t m,
          int64_t n) const {
    if (bias == nullptr) return;
    for (int64_t r = 0; r < rows; ++r) {
      mindvit::AddTo(p + r * stride, bias + (h * m + query + r) * n, n);
      mindvit::AddTo(p + r * stride, mask + b % groups * n, n);
    }
  }
};

// The gradient of a bias (heads, values), of heads u / batch of samples u % batch that are shared
// out among threads: a part adds up by itself what it has of a head that another one has begun
class BiasGrad {
 public:
  BiasGrad(float *dbias, int64_t batch, int64_t values)
      : dbias_(dbias), batch_(batch), values_(values), rest_(Threads()), heads_(Threads()) {}

  // Where u's is added to, in a part that begins at `first`; null: nobody asks
  float *At(int64_t u, int64_t first, int part) {
    if (dbias_ == nullptr) return nullptr;
    const int64_t h = u / batch_;
    if (h * batch_ < first) {
      heads_[part] = h;
      rest_[part].resize(values_);
      return rest_[part].data();
    }
    float *to = dbias_ + h * values_;
    if (u % batch_ == 0) std::fill(to, to + values_, 0.0f);
    return to;
  }

  // After all parts
  void Join() {
    for (size_t part = 0; part < rest_.size(); ++part)
      if (!rest_[part].empty()) AddTo(dbias_ + heads_[part] * values_, rest_[part].data(), values_);
  }

 private:
  float *const dbias_;
  const int64_t batch_, values_;
  std::vector<std::vector<float>> rest_;
  std::vector<int64_t> heads_;
};

// y = softmax(scale q k^T + what is added) v. The weights are not kept: to compute them again for
// the gradient takes no longer than to write and to read them.
void Attend(const Heads &size, const Side &q, const Side &k, const Side &v, const Added &added,
            const SideGrad &y);

struct AttentionGrads {
  SideGrad dq, dk, dv;
  float *dbias;  // (heads, M, N) or null
};

void AttendGrad(const Heads &size, const Side &q, const Side &k, const Side &v, const Added &added,
                const Side &dy, const AttentionGrads &grads);

// The same in bfloat16
void AttendInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                      const Added &added, const SideGrad &y);
void AttendGradInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                          const Added &added, const Side &dy, const AttentionGrads &grads);

// Self-attention of qkv (B, N, 3C): queries, keys and values, each C = heads x depth
struct SelfAttention {
  int64_t batch, tokens, channels, heads;
  float scale;

  // added, dbias: null and none where there is no bias
  void Forward(const float *qkv, const Added &added, float *y) const;
  void Backward(const float *qkv, const Added &added, const float *dy, float *dqkv,
                float *dbias) const;
};

constexpr Added kNothing = {nullptr, nullptr, 1};

}  // namespace mindvit
