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
#include "parallel.h"
#include "transpose.h"

namespace mindvit {

constexpr int64_t kSide = kBFloat16Rows;  // of a block of the result: two by two tiles
constexpr int64_t kLine = 32;             // values of a tile's row: 64 bytes
constexpr int64_t kTileValues = 16 * kLine;
// what is packed at once: of both operands, of the right and of the left one
constexpr int64_t kDepth = 256, kWidth = 1024, kHeight = 256;

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

inline __mmask16 FirstOf(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
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

  // 32 values of which each half is 16 that lie side by side, the first of them where masked
  template <bool masked>
  __m512i Both(const float *low, __mmask16 low_mask, const float *high, __mmask16 high_mask) const {
    const __m512 factor = _mm512_set1_ps(scale),
                 first = masked ? _mm512_maskz_loadu_ps(low_mask, low) : _mm512_loadu_ps(low),
                 second = masked ? _mm512_maskz_loadu_ps(high_mask, high) : _mm512_loadu_ps(high);
    return reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(_mm512_mul_ps(factor, second), _mm512_mul_ps(factor, first)));
  }
  template <bool masked>
  __m512i Both(const Half *low, __mmask16 low_mask, const Half *high, __mmask16 high_mask) const {
    const auto whole = [](const Half *x) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x));
    };
    const __m256i first = masked ? _mm256_maskz_loadu_epi16(low_mask, low) : whole(low),
                  second = masked ? _mm256_maskz_loadu_epi16(high_mask, high) : whole(high);
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
  }

  // one of 16 rows: a line's 32 values, or, where lines lie side by side, a pair of 16 lines'
  template <bool inside, bool cut_off>
  __m512i Row(int i, const T *x, int64_t lines, int64_t depth) const {
    const T *low = inside ? x + i * stride : x + 2 * i * stride,
            *high = inside ? low + 16 : low + stride;
    const __mmask16 low_mask = inside ? FirstOf(i < lines ? depth : 0)
                                      : FirstOf(2 * i < depth ? lines : 0),
                    high_mask = inside ? FirstOf(i < lines ? depth - 16 : 0)
                                       : FirstOf(2 * i + 1 < depth ? lines : 0);
    const __m512i both = Both<cut_off>(low, low_mask, high, high_mask);
    if (inside) return both;
    alignas(64) static const Half order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                               21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                               11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), both);
  }

  // 16 lines of 32 depths -> a tile; no more than `lines` and `depth` are there
  template <bool inside, bool cut_off>
  void PackTile(const T *x, int64_t lines, int64_t depth, bool transposed, Half *to) const {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = Row<inside, cut_off>(i, x, lines, depth);
    if (transposed) Transpose(rows);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * kLine, rows[i]);
  }

  // 32 lines from `first` of `lines`, `count` depths from `start` -> two tiles for 32 depths: of 16
  // lines each, or, `in_pairs`, of 16 pairs of depths for 16 lines
  void Pack(int64_t first, int64_t lines, int64_t start, int64_t count, bool in_pairs,
            Half *to) const {
    if (depth_inside)
      PackAll<true>(first, lines, start, count, in_pairs, to);
    else
      PackAll<false>(first, lines, start, count, in_pairs, to);
  }

  // all lines from `first` to before `last`, beyond which there are none. Where lines lie side by
  // side they are read depth by depth, as they lie.
  void PackLines(int64_t first, int64_t last, int64_t start, int64_t count, bool in_pairs,
                 Half *to) const {
    const int64_t at_once = depth_inside ? count : kLine, steps = RoundUp(count, kLine) / kLine;
    for (int64_t k = 0; k < count; k += at_once)
      for (int64_t l = first; l < last; l += kSide)
        Pack(l, last, start + k, std::min(at_once, count - k), in_pairs,
             to + (l - first) * steps * kLine + k / kLine * 2 * kTileValues);
  }

  template <bool inside>
  void PackAll(int64_t first, int64_t lines, int64_t start, int64_t count, bool in_pairs,
               Half *to) const {
    const bool transposed = inside == in_pairs;
    for (int64_t k = 0; k < count; k += kLine)
      for (int64_t l = first; l < first + kSide; l += 16, to += kTileValues)
        if (lines - l >= 16 && count - k >= kLine)
          PackTile<inside, false>(at(l, start + k), 16, kLine, transposed, to);
        else
          PackTile<inside, true>(at(l, start + k), lines - l, count - k, transposed, to);
  }
};

using Lines = LinesOf<float>;

// c (32 x 32) = a b, or += where `add`. Of c no more than `rows` and `columns` are there.
using Block = void (*)(const Half *a, const Half *b, int64_t depth, bool add, float *c,
                       int64_t stride, int64_t rows, int64_t columns);

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

}  // namespace mindvit

#endif
