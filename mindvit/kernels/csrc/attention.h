// Multi-head attention of operands that lie in rows of tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernel.h"
#include "math.h"
#include "parallel.h"

namespace mindvit {

// How a map of tokens is cut into groups that attend among themselves. No places: it is not.
struct Grouping {
  int64_t map = 0, groups = 1, tokens = 0;  // tokens of a map, its groups, and a group's tokens
  std::vector<int32_t> places;              // in the map, group by group; -1: beyond its edge
  std::vector<float> mask;  // added to the scores of a key, group by group; empty: no group has -1

  // axes: the map's sides, and regions, tokens of a group and interval along each; token (region *
  // tokens + t) * interval + g is the t-th of its group
  explicit Grouping(const float *axes) {
    int64_t side[2], regions[2], count[2], interval[2];
    for (int i = 0; i < 2; ++i) {
      side[i] = static_cast<int64_t>(axes[i]);
      regions[i] = static_cast<int64_t>(axes[2 + 3 * i]);
      count[i] = static_cast<int64_t>(axes[3 + 3 * i]);
      interval[i] = static_cast<int64_t>(axes[4 + 3 * i]);
    }
    map = side[0] * side[1], tokens = count[0] * count[1];
    const int64_t down = regions[0] * interval[0], across = regions[1] * interval[1];
    groups = down * across;
    places.reserve(groups * tokens);
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t t = 0; t < tokens; ++t) {
        const auto place = [&](int axis, int64_t group, int64_t token) {
          return (group / interval[axis] * count[axis] + token) * interval[axis] +
                 group % interval[axis];
        };
        const int64_t y = place(0, g / across, t / count[1]),
                      x = place(1, g % across, t % count[1]);
        places.push_back(y < side[0] && x < side[1] ? static_cast<int32_t>(y * side[1] + x) : -1);
      }
    if (groups * tokens == map) return;
    for (const int32_t place : places) mask.push_back(place < 0 ? -1e6f : 0.0f);
  }
  Grouping() = default;
};

// One operand of attention: rows of tokens, `stride` values from token to token, heads side by
// side. T: const float, or float for what is written.
template <typename T>
struct Operand {
  T *data;
  int64_t tokens, stride;              // tokens: of a sample, or of a group
  const Grouping *grouping = nullptr;  // null: a sample's tokens lie one after the other

  // that of token `t` of sample or group b; null: there is none
  T *at(int64_t b, int64_t t) const {
    if (grouping == nullptr) return data + (b * tokens + t) * stride;
    const int32_t place = grouping->places[b % grouping->groups * tokens + t];
    return place < 0 ? nullptr : data + (b / grouping->groups * grouping->map + place) * stride;
  }
};

using Side = Operand<const float>;
using SideGrad = Operand<float>;

// A head of a sample or of a group: tokens x depth, `stride` values from token to token
template <typename T>
struct HeadOf {
  T *data;
  int64_t stride;
};

// One head after the other. Where a group's tokens lie apart, it is a copy.
class OneHead {
 public:
  OneHead(const Side &of, int64_t depth)
      : depth_(depth),
        values_(of.tokens * depth),
        copies_(of.grouping ? Scratch(2, kPlaces * values_) : nullptr) {}

  enum Place { kQ, kK, kV, kY, kDQ, kDK, kDV, kPlaces };

  HeadOf<const float> Read(Place place, const Side &from, int64_t b, int64_t h) const {
    if (copies_ == nullptr) return {from.at(b, 0) + h * depth_, from.stride};
    float *to = copies_ + place * values_;
    for (int64_t t = 0; t < from.tokens; ++t)
      if (const float *token = from.at(b, t))
        std::copy(token + h * depth_, token + (h + 1) * depth_, to + t * depth_);
      else
        std::fill(to + t * depth_, to + (t + 1) * depth_, 0.0f);
    return {to, depth_};
  }

  // Where it can be written; then Write brings it to where it belongs
  HeadOf<float> Room(Place place, const SideGrad &to, int64_t b, int64_t h) const {
    if (copies_ == nullptr) return {to.at(b, 0) + h * depth_, to.stride};
    return {copies_ + place * values_, depth_};
  }
  void Write(Place place, const SideGrad &to, int64_t b, int64_t h) const {
    if (copies_ == nullptr) return;
    const float *from = copies_ + place * values_;
    for (int64_t t = 0; t < to.tokens; ++t)
      if (float *token = to.at(b, t))
        std::copy(from + t * depth_, from + (t + 1) * depth_, token + h * depth_);
  }

 private:
  const int64_t depth_, values_;
  float *const copies_;
};

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
    for (int64_t r = 0; r < rows; ++r) {
      if (bias) mindvit::AddTo(p + r * stride, bias + (h * m + query + r) * n, n);
      if (mask) mindvit::AddTo(p + r * stride, mask + b % groups * n, n);
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

// Self-attention of qkv (B, N, 3C): queries, keys and values, each C = heads x depth. All tokens of
// a sample attend to each other, or those of a group.
class SelfAttention {
 public:
  // numbers: scale, heads and, where there are groups, the axes of a Grouping; bias (heads, N, N)
  // of a sample's or a group's tokens, or a single value where there is none
  SelfAttention(int64_t batch, int64_t tokens, int64_t channels, const Input &numbers,
                const Input &bias)
      : channels_(channels),
        grouping_(numbers.dim(0) > 2 ? Grouping(numbers + 2) : Grouping()),
        tokens_(grouped() ? grouping_.tokens : tokens),
        size_{batch * grouping_.groups, static_cast<int64_t>(numbers[1]),
              channels / static_cast<int64_t>(numbers[1]), numbers[0]},
        added_{bias.size() > 1 ? bias.data : nullptr,
               grouping_.mask.empty() ? nullptr : grouping_.mask.data(), grouping_.groups} {}
  SelfAttention(const SelfAttention &) = delete;  // it points into itself

  void Forward(const float *qkv, float *y) const {
    Attend(size_, Third(qkv, 0), Third(qkv, 1), Third(qkv, 2), added_, Whole(y));
  }
  void Backward(const float *qkv, const float *dy, float *dqkv, float *dbias) const {
    if (added_.bias == nullptr) *dbias = 0;
    AttendGrad(size_, Third(qkv, 0), Third(qkv, 1), Third(qkv, 2), added_, Whole(dy),
               {Third(dqkv, 0), Third(dqkv, 1), Third(dqkv, 2), added_.bias ? dbias : nullptr});
  }

 private:
  bool grouped() const { return !grouping_.places.empty(); }
  const Grouping *grouping() const { return grouped() ? &grouping_ : nullptr; }
  template <typename T>
  Operand<T> Third(T *qkv, int64_t which) const {
    return {qkv + which * channels_, tokens_, 3 * channels_, grouping()};
  }
  template <typename T>
  Operand<T> Whole(T *y) const {
    return {y, tokens_, channels_, grouping()};
  }

  const int64_t channels_;
  const Grouping grouping_;
  const int64_t tokens_;
  const Heads size_;
  const Added added_;
};

constexpr Added kNothing = {nullptr, nullptr, 1};

}  // namespace mindvit
