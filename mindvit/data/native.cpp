// Pillow's resize and bicubic affine transform of 8-bit RGB images with vectors: the same numbers
// in the same order, width before height. Built by native.py on first use; -ffp-contract=off keeps
// products and sums apart, as in Pillow's own build.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#else
#error "this processor has neither AVX2 nor NEON, and Pillow is as fast there"
#endif

typedef double Double4 __attribute__((vector_size(32)));

namespace {

constexpr int BITS = 22;  // of a weight's fraction
constexpr int ROWS = 4;   // that go together: four bytes of each fill a vector
constexpr int SPARE = 4;  // bytes after a row, since a pixel is loaded as four

struct Weights {
  int taps;  // room for each output place
  std::vector<int> first, count;
  std::vector<int32_t> value;
};

double cubic(double x) {
  x = std::fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0.0;
}

double triangle(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// How an axis of `in` pixels becomes one of `out`, of which `places` from `from` on are wanted: the
// filter is stretched where the image shrinks, and cut off at the border.
Weights weights(int in, int out, int from, int places, bool bicubic) {
  const double scale = double(float(in)) / out, stretch = std::max(scale, 1.0),
               reach = (bicubic ? 2.0 : 1.0) * stretch, shrink = 1.0 / stretch;
  Weights result;
  result.taps = int(std::ceil(reach)) * 2 + 1;
  result.first.resize(places);
  result.count.resize(places);
  result.value.assign(size_t(places) * result.taps, 0);
  std::vector<double> raw(result.taps);
  for (int place = 0; place < places; ++place) {
    const double centre = (from + place + 0.5) * scale;
    const int first = std::max(0, int(centre - reach + 0.5)),
              count = std::min(in, int(centre + reach + 0.5)) - first;
    double sum = 0.0;
    for (int tap = 0; tap < count; ++tap) {
      const double at = (tap + first - centre + 0.5) * shrink;
      raw[tap] = bicubic ? cubic(at) : triangle(at);
      sum += raw[tap];
    }
    for (int tap = 0; tap < count; ++tap) {
      const double weight = (sum != 0.0 ? raw[tap] / sum : raw[tap]) * (1 << BITS);
      result.value[size_t(place) * result.taps + tap] =
          int32_t(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    result.first[place] = first;
    result.count[place] = count;
  }
  return result;
}

uint8_t clipped(int32_t sum) { return uint8_t(std::min(255, std::max(0, sum >> BITS))); }

uint32_t word(const uint8_t *at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

#if defined(__AVX2__)

__m256i widened(__m128i bytes, __m256i weight) {
  return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight);
}

Double4 pixel(const uint8_t *at) {
  return reinterpret_cast<Double4>(
      _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(int32_t(word(at))))));
}

// Four rows of RGB pixels, each made `out` pixels wide: the rows' pixels, four bytes each, fill one
// register, and their sums two.
void narrow(const uint8_t *const *rows, const Weights &axis, int out, uint8_t *const *results) {
  for (int place = 0; place < out; ++place) {
    const int32_t *weight = &axis.value[size_t(place) * axis.taps];
    const size_t start = size_t(axis.first[place]) * 3;
    __m256i low = _mm256_set1_epi32(1 << (BITS - 1)), high = low;
    for (int tap = 0; tap < axis.count[place]; ++tap) {
      const size_t at = start + size_t(tap) * 3;
      const __m128i bytes = _mm_set_epi32(int(word(rows[3] + at)), int(word(rows[2] + at)),
                                          int(word(rows[1] + at)), int(word(rows[0] + at)));
      const __m256i factor = _mm256_set1_epi32(weight[tap]);
      low = _mm256_add_epi32(low, widened(bytes, factor));
      high = _mm256_add_epi32(high, widened(_mm_srli_si128(bytes, 8), factor));
    }
    // Both packings clip, and leave rows 0 and 2 in the lower half and rows 1 and 3 in the upper
    // one.
    const __m256i words =
        _mm256_packs_epi32(_mm256_srai_epi32(low, BITS), _mm256_srai_epi32(high, BITS));
    const __m256i packed = _mm256_packus_epi16(words, words);
    const uint64_t even = uint64_t(_mm256_extract_epi64(packed, 0)),
                   odd = uint64_t(_mm256_extract_epi64(packed, 2));
    const uint32_t pixels[ROWS] = {uint32_t(even), uint32_t(odd), uint32_t(even >> 32),
                                   uint32_t(odd >> 32)};
    for (int row = 0; row < ROWS; ++row) {
      results[row][place * 3] = uint8_t(pixels[row]);
      results[row][place * 3 + 1] = uint8_t(pixels[row] >> 8);
      results[row][place * 3 + 2] = uint8_t(pixels[row] >> 16);
    }
  }
}

#else

int32x4_t widened(const uint8_t *at) {
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word(at))))));
}

Double4 pixel(const uint8_t *at) {
  const int32x4_t values = widened(at);
  const float64x2_t halves[2] = {vcvtq_f64_s64(vmovl_s32(vget_low_s32(values))),
                                 vcvtq_f64_s64(vmovl_high_s32(values))};
  Double4 result;
  std::memcpy(&result, halves, sizeof result);
  return result;
}

// Four rows of RGB pixels, each made `out` pixels wide: a register holds a row's sums.
void narrow(const uint8_t *const *rows, const Weights &axis, int out, uint8_t *const *results) {
  for (int place = 0; place < out; ++place) {
    const int32_t *weight = &axis.value[size_t(place) * axis.taps];
    const size_t start = size_t(axis.first[place]) * 3;
    int32x4_t sums[ROWS];
    for (int row = 0; row < ROWS; ++row) sums[row] = vdupq_n_s32(1 << (BITS - 1));
    for (int tap = 0; tap < axis.count[place]; ++tap)
      for (int row = 0; row < ROWS; ++row)
        sums[row] =
            vmlaq_n_s32(sums[row], widened(rows[row] + start + size_t(tap) * 3), weight[tap]);
    for (int row = 0; row < ROWS; row += 2) {
      // Both packings clip.
      const int16x8_t words = vcombine_s16(vqmovn_s32(vshrq_n_s32(sums[row], BITS)),
                                           vqmovn_s32(vshrq_n_s32(sums[row + 1], BITS)));
      uint8_t bytes[8];
      vst1_u8(bytes, vqmovun_s16(words));
      std::memcpy(results[row] + place * 3, bytes, 3);
      std::memcpy(results[row + 1] + place * 3, bytes + 4, 3);
    }
  }
}

#endif

Double4 between(Double4 a, Double4 b, Double4 c, Double4 d, double share) {
  const Double4 p2 = -a + c, p3 = 2 * (a - b) + c - d, p4 = -a + b - c + d;
  return b + share * (p2 + share * (p3 + share * p4));
}

}  // namespace

extern "C" {

// in: height x width x 3 bytes without gaps. place: the whole result's width and height, and left,
// top, width and height of the part of it that out gets.
void resize_rgb(const uint8_t *in, int width, int height, uint8_t *out, const int32_t *place,
                int bicubic) {
  const int out_width = place[4], out_height = place[5];
  const Weights across = weights(width, place[0], place[2], out_width, bicubic),
                down = weights(height, place[1], place[3], out_height, bicubic);
  const int first = down.first[0], last = down.first[out_height - 1] + down.count[out_height - 1];
  const size_t in_line = size_t(width) * 3, line = size_t(out_width) * 3;
  std::vector<uint8_t> strip((last - first) * line), spare(line), tail(in_line + SPARE);
  std::memcpy(tail.data(), in + (height - 1) * in_line, in_line);
  for (int above = first; above < last; above += ROWS) {
    const uint8_t *rows[ROWS];
    uint8_t *results[ROWS];
    for (int row = 0; row < ROWS; ++row) {
      const int y = std::min(above + row, last - 1);
      rows[row] = y == height - 1 ? tail.data() : in + y * in_line;
      results[row] = above + row < last ? &strip[(above + row - first) * line] : spare.data();
    }
    narrow(rows, across, out_width, results);
  }
  std::vector<int32_t> sums(line);
  for (int y = 0; y < out_height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (BITS - 1));
    for (int tap = 0; tap < down.count[y]; ++tap) {
      const int32_t weight = down.value[size_t(y) * down.taps + tap];
      const uint8_t *row = &strip[(down.first[y] + tap - first) * line];
      for (size_t x = 0; x < line; ++x) sums[x] += row[x] * weight;
    }
    for (size_t x = 0; x < line; ++x) out[y * line + x] = clipped(sums[x]);
  }
}

// Place (x, y) of out takes the colour at (a x + b y + c, d x + e y + f) of in, or `fill` where
// there is none; both are height x width x 3 bytes.
void affine_rgb(const uint8_t *in, int width, int height, uint8_t *out, const double *matrix,
                const uint8_t *fill) {
  const size_t line = size_t(width) * 3;
  std::vector<uint8_t> copy(height * line + SPARE);
  std::memcpy(copy.data(), in, height * line);
  for (int y = 0; y < height; ++y) {
    uint8_t *place = out + y * line;
    for (int x = 0; x < width; ++x, place += 3) {
      const double right = x + 0.5, below = y + 0.5;
      double at_x = matrix[0] * right + matrix[1] * below + matrix[2],
             at_y = matrix[3] * right + matrix[4] * below + matrix[5];
      if (at_x < 0.0 || at_x >= width || at_y < 0.0 || at_y >= height) {
        std::memcpy(place, fill, 3);
        continue;
      }
      at_x -= 0.5;
      at_y -= 0.5;
      const int column = int(std::floor(at_x)), row = int(std::floor(at_y));
      const double dx = at_x - column, dy = at_y - row;
      size_t columns[4];
      for (int tap = 0; tap < 4; ++tap)
        columns[tap] = size_t(std::min(width - 1, std::max(0, column - 1 + tap))) * 3;
      const auto across = [&](int at) {
        const uint8_t *pixels = copy.data() + std::min(height - 1, std::max(0, at)) * line;
        if (dx == 0.0) return pixel(pixels + columns[1]);
        return between(pixel(pixels + columns[0]), pixel(pixels + columns[1]),
                       pixel(pixels + columns[2]), pixel(pixels + columns[3]), dx);
      };
      const Double4 colour =
          dy == 0.0 ? across(row)
                    : between(across(row - 1), across(row), across(row + 1), across(row + 2), dy);
      for (int channel = 0; channel < 3; ++channel) {
        const double value = colour[channel];
        place[channel] = value <= 0.0 ? 0 : value >= 255.0 ? 255 : uint8_t(value);
      }
    }
  }
}
}
