// What products in bfloat16 are made of. Both operands are packed in the order in which AMX takes
// them, and rounded on the way: 16 x 32 values a tile. The instruction of AVX-512 takes the same
// order.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16.h"

namespace mindvit {

constexpr int64_t kSide = 32;  // of a block of the result: two by two tiles
constexpr int64_t kLine = 32;  // values of a tile's row: 64 bytes
constexpr int64_t kTileValues = 16 * kLine;
constexpr int64_t kDepth = 256, kWidth = 1024;  // what is packed of the right operand at once

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

inline __mmask16 FirstOf(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}

// 16 rows of 16 pairs of values -> its transpose
inline void Transpose(__m512i *r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// An operand: lines (rows of the left one, columns of the right one), each of as many values as the
// product is deep. Either these lie side by side, `stride` from line to line, or lines do, `stride`
// from depth to depth.
template <typename T>
struct LinesOf {
  const T *data;
  int64_t stride;
  bool depth_inside;
  float scale;  // for values that are not rounded yet

  const T *at(int64_t line, int64_t depth) const {
    return depth_inside ? data + line * stride + depth : data + depth * stride + line;
  }

  // 32 values of which each half is 16 that lie side by side
  __m512i Both(const float *low, __mmask16 low_mask, const float *high, __mmask16 high_mask) const {
    const __m512 factor = _mm512_set1_ps(scale);
    return reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(_mm512_mul_ps(factor, _mm512_maskz_loadu_ps(high_mask, high)),
                            _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(low_mask, low))));
  }
  __m512i Both(const Half *low, __mmask16 low_mask, const Half *high, __mmask16 high_mask) const {
    const __m512i first = _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(low_mask, low));
    return _mm512_inserti64x4(first, _mm256_maskz_loadu_epi16(high_mask, high), 1);
  }

  // one of 16 rows: a line's 32 values, or, where lines lie side by side, a pair of 16 lines'
  __m512i Row(int i, const T *x, int64_t lines, int64_t depth) const {
    const T *low = depth_inside ? x + i * stride : x + 2 * i * stride,
            *high = depth_inside ? low + 16 : low + stride;
    const __mmask16 low_mask = depth_inside ? FirstOf(i < lines ? depth : 0)
                                            : FirstOf(2 * i < depth ? lines : 0),
                    high_mask = depth_inside ? FirstOf(i < lines ? depth - 16 : 0)
                                             : FirstOf(2 * i + 1 < depth ? lines : 0);
    const __m512i both = Both(low, low_mask, high, high_mask);
    if (depth_inside) return both;
    alignas(64) static const Half order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                               21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                               11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), both);
  }

  // 32 lines from `first` of `lines`, `count` depths from `start` -> two tiles for 32 depths: of 16
  // lines each, or, `in_pairs`, of 16 pairs of depths for 16 lines
  void Pack(int64_t first, int64_t lines, int64_t start, int64_t count, bool in_pairs,
            Half *to) const {
    for (int64_t k = 0; k < count; k += kLine)
      for (int64_t l = first; l < first + kSide; l += 16, to += kTileValues) {
        __m512i rows[16];
        const T *x = at(l, start + k);
        for (int i = 0; i < 16; ++i) rows[i] = Row(i, x, lines - l, count - k);
        if (depth_inside == in_pairs) Transpose(rows);
        for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * kLine, rows[i]);
      }
  }
};

using Lines = LinesOf<float>;

// c (32 x 32) = a b, or += where `add`; steps of 32 depths
using Block = void (*)(const Half *a, const Half *b, int64_t steps, bool add, float *c,
                       int64_t stride);

// Whether this process has AMX's tiles
bool HasTiles();

// The one that BFloat16Gemm uses; to be called while a TileScope is there
Block BlockProduct();

// AMX's tiles are this thread's as long as it lives
struct TileScope {
  explicit TileScope(bool wanted = HasTiles());
  ~TileScope();
  const bool wanted;
};

// `count` packed values of the calling thread's own; the next call for the place takes them back
inline Half *Packed(int place, int64_t count) {
  struct alignas(64) Line {
    Half values[kLine];
  };
  thread_local std::vector<Line> memory[8];
  const size_t lines = static_cast<size_t>(RoundUp(count, kLine) / kLine);
  if (memory[place].size() < lines) memory[place].resize(lines);
  return memory[place][0].values;
}

// c (m x n) = a b, or += where `add`
struct Target {
  float *data;
  int64_t stride, rows, columns;

  // of the block at a row and a column; where it is cut off, by way of a whole one
  void Add(Block block, int64_t row, int64_t column, const Half *a, const Half *b, int64_t steps,
           bool add) const {
    float *to = data + row * stride + column;
    const int64_t high = std::min(kSide, rows - row), wide = std::min(kSide, columns - column);
    if (high == kSide && wide == kSide) {
      block(a, b, steps, add, to, stride);
      return;
    }
    alignas(64) float whole[kSide * kSide];
    block(a, b, steps, false, whole, kSide);
    for (int64_t r = 0; r < high; ++r)
      for (int64_t c = 0; c < wide; ++c)
        to[r * stride + c] = whole[r * kSide + c] + (add ? to[r * stride + c] : 0.0f);
  }
};

}  // namespace mindvit

#endif
