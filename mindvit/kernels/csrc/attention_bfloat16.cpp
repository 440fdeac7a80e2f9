// Attention in bfloat16, some queries at a time: their scores stay in the cache, and the gradient
// computes them again rather than read all weights from memory.

#include <algorithm>
#include <vector>

#include "attention.h"
#include "bfloat16.h"
#include "math.h"
#include "parallel.h"
#include "tiles.h"

namespace mindvit {

#ifdef __AVX512BF16__

namespace {

// Where a thread keeps what it has packed
enum Place { kRows, kKeys, kKeysAcross, kValues, kValuesAcross, kQueryRows };

constexpr int64_t kScores = 1 << 15;  // of the queries that are taken at once, about

// One head: queries against keys
struct HeadProducts {
  const Heads &size;
  const int64_t m, n, wide, depth_steps, key_steps;
  const int64_t most;  // queries at a time
  const Block block = BlockProduct();

  HeadProducts(const Heads &size_, int64_t m_, int64_t n_)
      : size(size_),
        m(m_),
        n(n_),
        wide(RoundUp(n, kSide)),
        depth_steps(RoundUp(size.depth, kLine) / kLine),
        key_steps(wide / kLine),
        most(std::min<int64_t>(256, std::max(kSide, kScores / wide / kSide * kSide))) {}

  // x (n x depth) as the right operand of q x^T
  Half *Across(Place place, const float *x, int64_t stride) const {
    Half *to = Packed(place, wide * depth_steps * kLine);
    for (int64_t c = 0; c < n; c += kSide)
      Lines{x, stride, true, 1.0f}.Pack(c, n, 0, size.depth, true, to + c * depth_steps * kLine);
    return to;
  }

  // x (rows x depth) as the right operand of p x
  Half *Down(Place place, const float *x, int64_t stride, int64_t rows) const {
    const int64_t steps = RoundUp(rows, kLine) / kLine;
    Half *to = Packed(place, RoundUp(size.depth, kSide) * steps * kLine);
    for (int64_t c = 0; c < size.depth; c += kSide)
      Lines{x, stride, false, 1.0f}.Pack(c, size.depth, 0, rows, true, to + c * steps * kLine);
    return to;
  }

  // to (rows x wide) = scale x y^T, where y is packed across
  void Scores(const float *x, int64_t stride, int64_t rows, float scale, const Half *y,
              float *to) const {
    Half *left = Packed(kRows, 2 * depth_steps * kTileValues);
    for (int64_t r = 0; r < rows; r += kSide) {
      Lines{x, stride, true, scale}.Pack(r, rows, 0, size.depth, false, left);
      for (int64_t c = 0; c < n; c += kSide)
        block(left, y + c * depth_steps * kLine, depth_steps, false, to + r * wide + c, wide);
    }
  }

  // to (rows x depth) = scale x y, where x is rows x wide and y (n x depth) is packed down
  void Mix(const float *x, float scale, int64_t rows, const Half *y, float *to,
           int64_t stride) const {
    Half *left = Packed(kRows, 2 * key_steps * kTileValues);
    const Target target{to, stride, rows, size.depth};
    for (int64_t r = 0; r < rows; r += kSide) {
      Lines{x, wide, true, scale}.Pack(r, rows, 0, n, false, left);
      for (int64_t c = 0; c < size.depth; c += kSide)
        target.Add(block, r, c, left, y + c * key_steps * kLine, key_steps, false);
    }
  }

  // to (n x depth) = or += scale x^T y, where x is rows x wide and y (rows x depth) is packed down
  void Gather(const float *x, float scale, int64_t rows, const Half *y, bool add, float *to,
              int64_t stride) const {
    const int64_t steps = RoundUp(rows, kLine) / kLine;
    Half *left = Packed(kRows, 2 * steps * kTileValues);
    const Target target{to, stride, n, size.depth};
    for (int64_t r = 0; r < n; r += kSide) {
      Lines{x, wide, false, scale}.Pack(r, n, 0, rows, false, left);
      for (int64_t c = 0; c < size.depth; c += kSide)
        target.Add(block, r, c, left, y + c * steps * kLine, steps, add);
    }
  }

  // the weights of some queries (rows x wide); bias: their first row, or null
  void Weights(const float *q, int64_t stride, int64_t rows, const Half *keys, const float *bias,
               float *to) const {
    Scores(q, stride, rows, size.scale, keys, to);
    for (int64_t r = 0; r < rows; ++r) {
      if (bias != nullptr) AddTo(to + r * wide, bias + r * n, n);
      SoftmaxRow(to + r * wide, n);
    }
  }
};

}  // namespace

void AttendInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                      const float *bias, const SideGrad &y) {
  const int64_t heads = size.heads, depth = size.depth, m = q.tokens, n = k.tokens;
  Rows(size.batch * heads, m * n * 2, [&](int64_t first, int64_t last, int) {
    const TileScope scope;
    const HeadProducts head(size, m, n);
    float *p = Scratch(0, head.most * head.wide);
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      const Half *keys = head.Across(kKeys, k.at(b, h, depth), k.stride),
                 *values = head.Down(kValues, v.at(b, h, depth), v.stride, n);
      const float *add = bias ? bias + ((b % size.groups) * heads + h) * m * n : nullptr;
      for (int64_t r = 0; r < m; r += head.most) {
        const int64_t rows = std::min(head.most, m - r);
        head.Weights(q.at(b, h, depth) + r * q.stride, q.stride, rows, keys,
                     add ? add + r * n : nullptr, p);
        head.Mix(p, 1.0f, rows, values, y.at(b, h, depth) + r * y.stride, y.stride);
      }
    }
  });
}

void AttendGradInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                          const float *bias, const Side &dy, const AttentionGrads &grads) {
  const int64_t heads = size.heads, depth = size.depth, m = q.tokens, n = k.tokens;
  const SideGrad &dq = grads.dq, &dk = grads.dk, &dv = grads.dv;
  Rows(size.groups * heads, size.batch / size.groups * m * n * 2,
       [&](int64_t first, int64_t last, int) {
         const TileScope scope;
         const HeadProducts head(size, m, n);
         float *p = Scratch(0, head.most * head.wide), *d = Scratch(1, head.most * head.wide);
         for (int64_t pair = first; pair < last; ++pair) {
           const int64_t h = pair % heads;
           const float *add = bias ? bias + pair * m * n : nullptr;
           float *dbias = grads.dbias ? grads.dbias + pair * m * n : nullptr;
           if (dbias) std::fill(dbias, dbias + m * n, 0.0f);
           for (int64_t b = pair / heads; b < size.batch; b += size.groups) {
             const float *keys = k.at(b, h, depth), *values = v.at(b, h, depth);
             const Half *across = head.Across(kKeysAcross, keys, k.stride),
                        *down = head.Down(kKeys, keys, k.stride, n),
                        *values_across = head.Across(kValuesAcross, values, v.stride);
             for (int64_t r = 0; r < m; r += head.most) {
               const int64_t rows = std::min(head.most, m - r);
               const float *query = q.at(b, h, depth) + r * q.stride,
                           *slope = dy.at(b, h, depth) + r * dy.stride;
               head.Weights(query, q.stride, rows, across, add ? add + r * n : nullptr, p);
               head.Gather(p, 1.0f, rows, head.Down(kQueryRows, slope, dy.stride, rows), r > 0,
                           dv.at(b, h, depth), dv.stride);
               head.Scores(slope, dy.stride, rows, 1.0f, values_across, d);
               for (int64_t i = 0; i < rows; ++i) {
                 float *row = d + i * head.wide;
                 SoftmaxRowGrad(p + i * head.wide, row, row, n);
                 if (dbias) AddTo(dbias + (r + i) * n, row, n);
               }
               head.Mix(d, size.scale, rows, down, dq.at(b, h, depth) + r * dq.stride, dq.stride);
               head.Gather(d, size.scale, rows, head.Down(kQueryRows, query, q.stride, rows),
                           r > 0, dk.at(b, h, depth), dk.stride);
             }
           }
         }
       });
}

#else

void AttendInBFloat16(const Heads &, const Side &, const Side &, const Side &, const float *,
                      const SideGrad &) {}

void AttendGradInBFloat16(const Heads &, const Side &, const Side &, const Side &, const float *,
                          const Side &, const AttentionGrads &) {}

#endif

}  // namespace mindvit
