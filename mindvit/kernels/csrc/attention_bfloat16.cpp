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

struct Operands {
  const Side &q, &k, &v;
  const Added &added;
};

// One head: queries against keys
struct HeadProducts {
  const Heads &size;
  const int64_t m, n, wide, depth_steps;
  const int64_t most;  // queries at a time
  const Block block = BlockProduct();

  HeadProducts(const Heads &size_, int64_t m_, int64_t n_)
      : size(size_),
        m(m_),
        n(n_),
        wide(RoundUp(n, kSide)),
        depth_steps(RoundUp(size.depth, kLine) / kLine),
        most(std::min<int64_t>(256, std::max(kSide, kScores / wide / kSide * kSide))) {}

  // x (n x depth) as the right operand of q x^T
  Half *Across(Place place, const float *x, int64_t stride) const {
    Half *to = Packed(place, wide * depth_steps * kLine);
    Lines{x, stride, true, 1.0f}.PackLines(0, n, 0, size.depth, true, to);
    return to;
  }

  // x (rows x depth) as the right operand of p x
  Half *Down(Place place, const float *x, int64_t stride, int64_t rows) const {
    const int64_t steps = RoundUp(rows, kLine) / kLine;
    Half *to = Packed(place, RoundUp(size.depth, kSide) * steps * kLine);
    Lines{x, stride, false, 1.0f}.PackLines(0, size.depth, 0, rows, true, to);
    return to;
  }

  // to (rows x wide) = scale x y^T, where y is packed across
  void Scores(const float *x, int64_t stride, int64_t rows, float scale, const Half *y,
              float *to) const {
    Half *left = Packed(kRows, 2 * depth_steps * kTileValues);
    for (int64_t r = 0; r < rows; r += kSide) {
      Lines{x, stride, true, scale}.Pack(r, rows, 0, size.depth, false, left);
      for (int64_t c = 0; c < n; c += kSide)
        block(left, y + c * depth_steps * kLine, size.depth, false, to + r * wide + c, wide,
              rows - r, n - c);
    }
  }

  // to (rows x depth) = or += x y, where y (inner x depth) is packed down
  void Times(const Lines &x, int64_t rows, int64_t inner, const Half *y, bool add, float *to,
             int64_t stride) const {
    const int64_t steps = RoundUp(inner, kLine) / kLine;
    Half *left = Packed(kRows, 2 * steps * kTileValues);
    for (int64_t r = 0; r < rows; r += kSide) {
      x.Pack(r, rows, 0, inner, false, left);
      for (int64_t c = 0; c < size.depth; c += kSide)
        block(left, y + c * steps * kLine, inner, add, to + r * stride + c, stride, rows - r,
              size.depth - c);
    }
  }

  // to (rows x depth) = scale x y, where x is rows x wide and y (n x depth) is packed down
  void Mix(const float *x, float scale, int64_t rows, const Half *y, float *to,
           int64_t stride) const {
    Times(Lines{x, wide, true, scale}, rows, n, y, false, to, stride);
  }

  // to (n x depth) = or += scale x^T y, where x is rows x wide and y (rows x depth) is packed down
  void Gather(const float *x, float scale, int64_t rows, const Half *y, bool add, float *to,
              int64_t stride) const {
    Times(Lines{x, wide, false, scale}, n, rows, y, add, to, stride);
  }

  // the weights of `rows` queries of head h of sample b, from `first` on (rows x wide)
  void Weights(int64_t b, int64_t h, int64_t first, int64_t rows, const HeadOf<const float> &q,
               const Added &added, const Half *keys, float *to) const {
    Scores(q.data + first * q.stride, q.stride, rows, size.scale, keys, to);
    added.To(to, wide, b, h, first, rows, m, n);
    for (int64_t r = 0; r < rows; ++r) SoftmaxRow(to + r * wide, n);
  }

  // y of head h of sample b
  void Forward(int64_t b, int64_t h, const Operands &of, const SideGrad &y) const {
    const OneHead one(of.q, size.depth);
    const auto q = one.Read(OneHead::kQ, of.q, b, h), k = one.Read(OneHead::kK, of.k, b, h),
               v = one.Read(OneHead::kV, of.v, b, h);
    const auto result = one.Room(OneHead::kY, y, b, h);
    const Half *keys = Across(kKeys, k.data, k.stride),
               *values = Down(kValues, v.data, v.stride, n);
    float *p = Scratch(0, most * wide);
    for (int64_t r = 0; r < m; r += most) {
      const int64_t rows = std::min(most, m - r);
      Weights(b, h, r, rows, q, of.added, keys, p);
      Mix(p, 1.0f, rows, values, result.data + r * result.stride, result.stride);
    }
    one.Write(OneHead::kY, y, b, h);
  }

  // the gradients of head h of sample b; adds to dbias (M, N), where there is one
  void Backward(int64_t b, int64_t h, const Operands &of, const Side &dy,
                const AttentionGrads &grads, float *dbias) const {
    const OneHead one(of.q, size.depth);
    const auto q = one.Read(OneHead::kQ, of.q, b, h), k = one.Read(OneHead::kK, of.k, b, h),
               v = one.Read(OneHead::kV, of.v, b, h), slope = one.Read(OneHead::kY, dy, b, h);
    const auto dq = one.Room(OneHead::kDQ, grads.dq, b, h),
               dk = one.Room(OneHead::kDK, grads.dk, b, h),
               dv = one.Room(OneHead::kDV, grads.dv, b, h);
    const Half *across = Across(kKeysAcross, k.data, k.stride),
               *down = Down(kKeys, k.data, k.stride, n),
               *values = Across(kValuesAcross, v.data, v.stride);
    float *p = Scratch(0, most * wide), *d = Scratch(1, most * wide);
    for (int64_t r = 0; r < m; r += most) {
      const int64_t rows = std::min(most, m - r);
      const float *query = q.data + r * q.stride, *dresult = slope.data + r * slope.stride;
      Weights(b, h, r, rows, q, of.added, across, p);
      Gather(p, 1.0f, rows, Down(kQueryRows, dresult, slope.stride, rows), r > 0, dv.data,
             dv.stride);
      Scores(dresult, slope.stride, rows, 1.0f, values, d);
      for (int64_t i = 0; i < rows; ++i) {
        SoftmaxRowGrad(p + i * wide, d + i * wide, d + i * wide, n);
        if (dbias) AddTo(dbias + (r + i) * n, d + i * wide, n);
      }
      Mix(d, size.scale, rows, down, dq.data + r * dq.stride, dq.stride);
      Gather(d, size.scale, rows, Down(kQueryRows, query, q.stride, rows), r > 0, dk.data,
             dk.stride);
    }
    one.Write(OneHead::kDQ, grads.dq, b, h);
    one.Write(OneHead::kDK, grads.dk, b, h);
    one.Write(OneHead::kDV, grads.dv, b, h);
  }
};

}  // namespace

void AttendInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                      const Added &added, const SideGrad &y) {
  const int64_t heads = size.heads, m = q.tokens, n = k.tokens;
  Rows(size.batch * heads, m * n * 2, [&](int64_t first, int64_t last, int) {
    const TileScope scope;
    const HeadProducts products(size, m, n);
    for (int64_t i = first; i < last; ++i)
      products.Forward(i / heads, i % heads, {q, k, v, added}, y);
  });
}

void AttendGradInBFloat16(const Heads &size, const Side &q, const Side &k, const Side &v,
                          const Added &added, const Side &dy, const AttentionGrads &grads) {
  const int64_t batch = size.batch, m = q.tokens, n = k.tokens;
  BiasGrad dbias(grads.dbias, batch, m * n);
  Rows(size.heads * batch, m * n * 2, [&](int64_t first, int64_t last, int part) {
    const TileScope scope;
    const HeadProducts products(size, m, n);
    for (int64_t u = first; u < last; ++u)
      products.Backward(u % batch, u / batch, {q, k, v, added}, dy, grads,
                        dbias.At(u, first, part));
  });
  dbias.Join();
}

#else

void AttendInBFloat16(const Heads &, const Side &, const Side &, const Side &, const Added &,
                      const SideGrad &) {}

void AttendGradInBFloat16(const Heads &, const Side &, const Side &, const Side &, const Added &,
                          const Side &, const AttentionGrads &) {}

#endif

}  // namespace mindvit
