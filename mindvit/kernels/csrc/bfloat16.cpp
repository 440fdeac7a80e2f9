#include "bfloat16.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "kernel.h"
#include "parallel.h"
#include "tiles.h"

namespace mindvit {

#ifdef __AVX512BF16__

namespace {

// 8 rows of the block, or, `cut_off`, the first `count` of them and the columns that `masks` have
template <int halves, bool cut_off>
void Avx512Rows(const Half *a, const Half *b, int64_t depth, bool add, float *c, int64_t stride,
                int64_t count, const __mmask16 *masks) {
  __m512 sums[8][halves];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < halves; ++j) {
      const float *from = c + i * stride + 16 * j;
      sums[i][j] = !add || (cut_off && i >= count) ? _mm512_setzero_ps()
                   : cut_off                       ? _mm512_maskz_loadu_ps(masks[j], from)
                                                   : _mm512_loadu_ps(from);
    }
  for (int64_t left = (depth + 1) / 2; left > 0;
       left -= 16, a += 2 * kTileValues, b += 2 * kTileValues)
    for (int pair = 0; pair < std::min<int64_t>(left, 16); ++pair) {
      __m512bh right[halves];
      for (int j = 0; j < halves; ++j)
        right[j] =
            reinterpret_cast<__m512bh>(_mm512_load_si512(b + j * kTileValues + pair * kLine));
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        int32_t both;
        std::memcpy(&both, a + i * kLine + 2 * pair, sizeof(both));
        const auto left = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
        for (int j = 0; j < halves; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], left, right[j]);
      }
    }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < halves; ++j) {
      float *to = c + i * stride + 16 * j;
      if (!cut_off)
        _mm512_storeu_ps(to, sums[i][j]);
      else if (i < count)
        _mm512_mask_storeu_ps(to, masks[j], sums[i][j]);
    }
}

void Avx512Block(const Half *a, const Half *b, int64_t depth, bool add, float *c, int64_t stride,
                 int64_t rows, int64_t columns) {
  const __mmask16 masks[2] = {FirstOf(columns), FirstOf(columns - 16)};
  const auto cut = columns > 16 ? Avx512Rows<2, true> : Avx512Rows<1, true>;
  for (int64_t top = 0; top < std::min(rows, kSide); top += 8) {
    const auto part = columns >= kSide && rows - top >= 8 ? Avx512Rows<2, false> : cut;
    part(a + top / 16 * kTileValues + top % 16 * kLine, b, depth, add, c + top * stride, stride,
         rows - top, masks);
  }
}

#ifdef __AMX_BF16__

// The shape of all eight tiles: 16 rows of 64 bytes
struct TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void AmxWhole(const Half *a, const Half *b, int64_t depth, bool add, float *c, int64_t stride) {
  const int64_t bytes = stride * sizeof(float);
  float *below = c + 16 * stride;
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (; depth > 0; depth -= kLine, a += 2 * kTileValues, b += 2 * kTileValues) {
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTileValues, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + kTileValues, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + 16, bytes);
}

// a block that is cut off by way of a whole one
void AmxBlock(const Half *a, const Half *b, int64_t depth, bool add, float *c, int64_t stride,
              int64_t rows, int64_t columns) {
  if (rows >= kSide && columns >= kSide) {
    AmxWhole(a, b, depth, add, c, stride);
    return;
  }
  alignas(64) float whole[kSide * kSide];
  AmxWhole(a, b, depth, false, whole, kSide);
  for (int64_t r = 0; r < std::min(rows, kSide); ++r)
    for (int64_t half = 0; half < std::min(columns, kSide); half += 16) {
      const __mmask16 mask = FirstOf(columns - half);
      float *to = c + r * stride + half;
      __m512 sum = _mm512_load_ps(whole + r * kSide + half);
      if (add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, sum);
    }
}

// Linux lends the tiles' registers to a process that asks for them
bool AskForTiles() {
  constexpr int kAsk = 0x1023, kTiles = 18;
  return syscall(SYS_arch_prctl, kAsk, kTiles) == 0;
}

void BeginTiles() {
  static const TileShapes shapes;
  _tile_loadconfig(&shapes);
}

void EndTiles() { _tile_release(); }

#else

bool AskForTiles() { return false; }
void BeginTiles() {}
void EndTiles() {}
constexpr Block AmxBlock = Avx512Block;

#endif

// c (rows x columns)
struct Target {
  float *data;
  int64_t stride, rows, columns;
};

template <typename T>
void Multiply(Block block, const LinesOf<T> &left, const LinesOf<T> &right, int64_t depth, bool add,
              const Target &to) {
  const int64_t passes = (depth + kDepth - 1) / kDepth,
                deep = RoundUp((depth + passes - 1) / passes, kLine);
  for (int64_t start = 0; start < depth; start += deep, add = true) {
    const int64_t count = std::min(deep, depth - start), steps = RoundUp(count, kLine) / kLine;
    for (int64_t left_edge = 0; left_edge < to.columns; left_edge += kWidth) {
      const int64_t edge = std::min(left_edge + kWidth, to.columns);
      Half *columns = Packed(1, RoundUp(edge - left_edge, kSide) * steps * kLine);
      right.PackLines(left_edge, edge, start, count, true, columns);
      for (int64_t top = 0; top < to.rows; top += kHeight) {
        const int64_t bottom = std::min(top + kHeight, to.rows);
        Half *rows = Packed(0, RoundUp(bottom - top, kSide) * steps * kLine);
        left.PackLines(top, bottom, start, count, false, rows);
        for (int64_t r = top; r < bottom; r += kSide)
          for (int64_t c = left_edge; c < edge; c += kSide)
            block(rows + (r - top) * steps * kLine, columns + (c - left_edge) * steps * kLine,
                  count, add, to.data + r * to.stride + c, to.stride, to.rows - r, to.columns - c);
      }
    }
  }
}

template <Block block>
int GemmOf(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
           const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
           int64_t ldc) {
  const TileScope scope(block == AmxBlock);
  Multiply(block, Lines{a, lda, transpose_a == 'N', alpha}, Lines{b, ldb, transpose_b == 'T', 1.0f},
           k, beta != 0, {c, ldc, m, n});
  return 0;
}
constexpr Gemm AmxGemm = GemmOf<AmxBlock>, Avx512Gemm = GemmOf<Avx512Block>;

// By tiles, or by AVX-512 alone; null where the processor can't
Gemm Way(bool tiles) {
  if (tiles) return HasTiles() ? AmxGemm : nullptr;
  return __builtin_cpu_supports("avx512bf16") ? Avx512Gemm : nullptr;
}

}  // namespace

PackedRight::PackedRight(char transpose, int64_t k, int64_t n, const float *data)
    : k_(k),
      n_(n),
      steps_(RoundUp(k, kLine) / kLine),
      memory_(new Half[RoundUp(n, kSide) * steps_ * kLine + kLine]) {
  const auto start = reinterpret_cast<uintptr_t>(memory_.get());
  values_ = memory_.get() + (RoundUp(start, 64) - start) / sizeof(Half);
  const Lines lines{data, transpose == 'T' ? k : n, transpose == 'T', 1.0f};
  const int64_t blocks = RoundUp(n, kSide) / kSide;
  Rows(blocks, kSide * k, [=](int64_t first, int64_t last, int) {
    lines.PackLines(first * kSide, std::min(n, last * kSide), 0, k, true,
                    values_ + first * kSide * steps_ * kLine);
  });
}

template <typename T>
void PackedRight::TimesAny(int64_t m, const T *a, float *c) const {
  const LinesOf<T> left{a, k_, true, 1.0f};
  const Block block = BlockProduct();
  Half *rows = Packed(0, 2 * steps_ * kTileValues);
  const TileScope scope(block == AmxBlock);
  for (int64_t r = 0; r < m; r += kSide) {
    left.Pack(r, m, 0, k_, false, rows);
    for (int64_t column = 0; column < n_; column += kSide)
      block(rows, values_ + column * steps_ * kLine, k_, false, c + r * n_ + column, n_, m - r,
            n_ - column);
  }
}

void PackedRight::Times(int64_t m, const float *a, float *c) const { TimesAny(m, a, c); }

void PackedRight::Times(int64_t m, const Half *a, float *c) const { TimesAny(m, a, c); }

void WeightGradOfHalves(const HalfRows &x, const HalfRows &dy, int64_t rows, int64_t inputs,
                        int64_t outputs, float *dweight) {
  Rows(outputs, inputs * rows, [=, &x, &dy](int64_t first, int64_t last, int) {
    const TileScope scope;
    Multiply(BlockProduct(), LinesOf<Half>{dy.data + first, dy.stride, false, 1.0f},
             LinesOf<Half>{x.data, x.stride, false, 1.0f}, rows, false,
             {dweight + first * inputs, inputs, last - first, inputs});
  });
}

bool HasTiles() {
  static const bool found = AskForTiles();
  return found;
}

Block BlockProduct() { return BFloat16Gemm() == AmxGemm ? AmxBlock : Avx512Block; }

TileScope::TileScope(bool wanted_) : wanted(wanted_) {
  if (wanted) BeginTiles();
}

TileScope::~TileScope() {
  if (wanted) EndTiles();
}

Gemm BFloat16Gemm() {
  // Intel's AVX512_BF16 multiplies at half the rate of float32, AMD's at twice that
  static const Gemm found = HasTiles() ? AmxGemm : __builtin_cpu_is("amd") ? Way(false) : nullptr;
  return found;
}

#else

namespace {

Gemm Way(bool) { return nullptr; }

}  // namespace

Gemm BFloat16Gemm() { return nullptr; }

PackedRight::PackedRight(char, int64_t k, int64_t n, const float *) : k_(k), n_(n), steps_(0) {}

void PackedRight::Times(int64_t, const float *, float *) const {}

void PackedRight::Times(int64_t, const Half *, float *) const {}

void WeightGradOfHalves(const HalfRows &, const HalfRows &, int64_t, int64_t, int64_t, float *) {}

#endif

}  // namespace mindvit

// Whether products in bfloat16 are faster than float32 here
extern "C" __attribute__((visibility("default"))) int HasBFloat16() {
  return mindvit::BFloat16Gemm() != nullptr;
}

// For tests: c (m x n), or c + it where `add`, of either way; 1 where this processor hasn't that
// one
extern "C" __attribute__((visibility("default"))) int TryBFloat16(int tiles, char transpose_a,
                                                                  char transpose_b, int64_t m,
                                                                  int64_t n, int64_t k,
                                                                  const float *a, const float *b,
                                                                  int add, float *c) {
  const mindvit::Gemm way = mindvit::Way(tiles != 0);
  if (way == nullptr) return 1;
  return way(transpose_a, transpose_b, m, n, k, 0.5f, a, transpose_a == 'N' ? k : m, b,
             transpose_b == 'N' ? n : k, add ? 1.0f : 0.0f, c, n);
}
