// Matrices with rows as columns.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>

namespace mindvit {

constexpr int64_t kSquare = 16;  // of a square that is turned at once

#ifdef __AVX512F__

// 16 rows of 16 values of 32 bits -> its transpose
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

#endif

// to (columns x rows) = the transpose of from (rows x columns)
inline void TransposeMatrix(const float *from, int64_t from_stride, int64_t rows, int64_t columns,
                            float *to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r += kSquare)
    for (int64_t c = 0; c < columns; c += kSquare) {
      const float *x = from + r * from_stride + c;
      float *y = to + c * to_stride + r;
      const int64_t high = std::min(kSquare, rows - r), wide = std::min(kSquare, columns - c);
#ifdef __AVX512F__
      if (high == kSquare && wide == kSquare) {
        __m512i square[kSquare];
        for (int i = 0; i < kSquare; ++i) square[i] = _mm512_loadu_si512(x + i * from_stride);
        Transpose(square);
        for (int i = 0; i < kSquare; ++i) _mm512_storeu_si512(y + i * to_stride, square[i]);
        continue;
      }
#endif
      for (int64_t j = 0; j < wide; ++j)
        for (int64_t i = 0; i < high; ++i) y[j * to_stride + i] = x[i * from_stride + j];
    }
}

}  // namespace mindvit
