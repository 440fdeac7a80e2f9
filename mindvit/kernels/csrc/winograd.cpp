#include "winograd.h"

namespace mindvit {

namespace {

constexpr int64_t kPlaces = WinogradTiles::kPlaces;
constexpr int64_t kBlockValues = 1 << 24;  // of a block of tiles' transformed values: 64 MB

// how rows of B^T d are made of two of d's: which, and their factors
struct RowOf {
  int64_t first, second;
  float a, b;
};
constexpr RowOf kInputRows[4] = {{0, 2, 1, -1}, {1, 2, 1, 1}, {2, 1, 1, -1}, {1, 3, 1, -1}};
// and rows of A y, of y's two
constexpr RowOf kOutputRows[4] = {{0, 1, 1, 0}, {0, 1, 1, 1}, {0, 1, 1, -1}, {0, 1, 0, -1}};

// to (16 lines, `step` values apart) = B^T d B of 4x4 pixels
void InputTile(const float *const *pixels, int64_t channels, int64_t step, float *to) {
  for (const RowOf &row : kInputRows) {
    const float *const *p = pixels + 4 * row.first, *const *q = pixels + 4 * row.second;
    const float *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3], *q0 = q[0], *q1 = q[1], *q2 = q[2],
                *q3 = q[3];
    const float b = row.b;
    float *v0 = to, *v1 = to + step, *v2 = to + 2 * step, *v3 = to + 3 * step;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const float w0 = p0[c] + b * q0[c], w1 = p1[c] + b * q1[c], w2 = p2[c] + b * q2[c],
                  w3 = p3[c] + b * q3[c];
      v0[c] = w0 - w2;
      v1[c] = w1 + w2;
      v2[c] = w2 - w1;
      v3[c] = w1 - w3;
    }
    to += 4 * step;
  }
}

// to (16 lines) = A dy A^T of 2x2 pixels
void GradientTile(const float *const *pixels, int64_t channels, int64_t step, float *to) {
  const float *p0 = pixels[0], *p1 = pixels[1], *q0 = pixels[2], *q1 = pixels[3];
  for (const RowOf &row : kOutputRows) {
    const float a = row.a, b = row.b;
    float *v0 = to, *v1 = to + step, *v2 = to + 2 * step, *v3 = to + 3 * step;
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const float w0 = a * p0[c] + b * q0[c], w1 = a * p1[c] + b * q1[c];
      v0[c] = w0;
      v1[c] = w0 + w1;
      v2[c] = w0 - w1;
      v3[c] = -w1;
    }
    to += 4 * step;
  }
}

// left and right (null: beyond the border) = a row of A^T m A, plus bias; sums of rows of m:
// `first` and `second` times 1, `third` times sign, each 4 lines
void OutputRow(const float *first, const float *second, const float *third, float sign,
               int64_t channels, int64_t step, const float *bias, float *left, float *right) {
  const float *a0 = first, *a1 = first + step, *a2 = first + 2 * step, *a3 = first + 3 * step;
  const float *b0 = second, *b1 = second + step, *b2 = second + 2 * step, *b3 = second + 3 * step;
  const float *d0 = third, *d1 = third + step, *d2 = third + 2 * step, *d3 = third + 3 * step;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float s0 = a0[c] + sign * b0[c] + d0[c] * sign, s1 = a1[c] + sign * b1[c] + sign * d1[c],
                s2 = a2[c] + sign * b2[c] + sign * d2[c], s3 = a3[c] + sign * b3[c] + sign * d3[c];
    left[c] = s0 + s1 + s2 + bias[c];
    right[c] = s1 - s2 - s3 + bias[c];
  }
}

// weight (O, I, 3, 3) -> (16, O, I): G g G^T
void WeightTiles(const float *weight, int64_t outputs, int64_t inputs, float *to) {
  const int64_t step = outputs * inputs;
  Rows(outputs, inputs * kPlaces, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first * inputs; i < last * inputs; ++i) {
      const float *g = weight + 9 * i;
      float w[4][3];
      for (int64_t c = 0; c < 3; ++c) {
        const float even = 0.5f * (g[c] + g[6 + c]), odd = 0.5f * g[3 + c];
        w[0][c] = g[c];
        w[1][c] = even + odd;
        w[2][c] = even - odd;
        w[3][c] = g[6 + c];
      }
      for (int64_t r = 0; r < 4; ++r) {
        const float even = 0.5f * (w[r][0] + w[r][2]), odd = 0.5f * w[r][1];
        to[(4 * r) * step + i] = w[r][0];
        to[(4 * r + 1) * step + i] = even + odd;
        to[(4 * r + 2) * step + i] = even - odd;
        to[(4 * r + 3) * step + i] = w[r][2];
      }
    }
  });
}

// its adjoint: (16, O, I) -> (O, I, 3, 3): G^T u G
void WeightTilesGrad(const float *tiles, int64_t outputs, int64_t inputs, float *dweight) {
  const int64_t step = outputs * inputs;
  Rows(outputs, inputs * kPlaces, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first * inputs; i < last * inputs; ++i) {
      float w[3][4];
      for (int64_t c = 0; c < 4; ++c) {
        const float *u = tiles + c * step + i;
        const float sum = 0.5f * (u[4 * step] + u[8 * step]);
        w[0][c] = u[0] + sum;
        w[1][c] = 0.5f * (u[4 * step] - u[8 * step]);
        w[2][c] = sum + u[12 * step];
      }
      float *g = dweight + 9 * i;
      for (int64_t r = 0; r < 3; ++r) {
        const float sum = 0.5f * (w[r][1] + w[r][2]);
        g[3 * r] = w[r][0] + sum;
        g[3 * r + 1] = 0.5f * (w[r][1] - w[r][2]);
        g[3 * r + 2] = sum + w[r][3];
      }
    }
  });
}

// place (r, c) of weights turned by half a circle: the outer rows and columns change places
int64_t Turned(int64_t place) {
  const auto turned = [](int64_t i) { return i == 0 ? 3 : (i == 3 ? 0 : i); };
  return 4 * turned(place / 4) + turned(place % 4);
}

// tiles of a block for which so many values are kept of each
int64_t BlockOf(int64_t tiles, int64_t values) {
  const int64_t most = std::max<int64_t>(kTile / 2, kBlockValues / (kPlaces * values)),
                blocks = (tiles + most - 1) / most;
  return (tiles + blocks - 1) / blocks;  // of one size
}

}  // namespace

void WinogradConvolve(const float *x, const ImageShape &in, const float *weight, const float *bias,
                      bool flipped, int64_t outputs, float *y) {
  const WinogradTiles tiles(in);
  const int64_t inputs = in.channels, block = BlockOf(tiles.count(), inputs + outputs);
  const std::vector<float> none(std::max(inputs, outputs), 0.0f);
  float *const weights = Scratch(0, kPlaces * inputs * (outputs + block)),
               *const values = weights + kPlaces * inputs * outputs,
               *const sums = Scratch(1, kPlaces * block * outputs);
  if (flipped)
    WeightTiles(weight, inputs, outputs, weights);
  else
    WeightTiles(weight, outputs, inputs, weights);
  const float *const add = bias == nullptr ? none.data() : bias;
  for (int64_t start = 0; start < tiles.count(); start += block) {
    const int64_t count = std::min(block, tiles.count() - start);
    Rows(count, kPlaces * inputs, [&](int64_t first, int64_t last, int) {
      const float *pixels[16];
      for (int64_t t = first; t < last; ++t) {
        tiles.Pixels(x, inputs, start + t, 4, 1, none.data(), pixels);
        InputTile(pixels, inputs, count * inputs, values + t * inputs);
      }
    });
    Rows(kPlaces, count * inputs * outputs, [&](int64_t first, int64_t last, int) {
      for (int64_t p = first; p < last; ++p)
        gemm()('N', flipped ? 'N' : 'T', count, outputs, inputs, 1.0f, values + p * count * inputs,
               inputs, weights + (flipped ? Turned(p) : p) * inputs * outputs,
               flipped ? outputs : inputs, 0.0f, sums + p * count * outputs, outputs);
    });
    Rows(count, kPlaces * outputs, [&](int64_t first, int64_t last, int) {
      const float *pixels[4];
      std::vector<float> beyond(outputs);
      const int64_t step = count * outputs;
      for (int64_t t = first; t < last; ++t) {
        tiles.Pixels(y, outputs, start + t, 2, 0, beyond.data(), pixels);
        const float *m = sums + t * outputs;
        OutputRow(m, m + 4 * step, m + 8 * step, 1, outputs, step, add,
                  const_cast<float *>(pixels[0]), const_cast<float *>(pixels[1]));
        OutputRow(m + 4 * step, m + 8 * step, m + 12 * step, -1, outputs, step, add,
                  const_cast<float *>(pixels[2]), const_cast<float *>(pixels[3]));
      }
    });
  }
}

void WinogradWeightGrad(const float *x, const ImageShape &in, const float *dy, int64_t outputs,
                        float *dweight) {
  const WinogradTiles tiles(in);
  const int64_t inputs = in.channels, block = BlockOf(tiles.count(), inputs + outputs);
  const std::vector<float> none(std::max(inputs, outputs), 0.0f);
  float *const weights = Scratch(0, kPlaces * inputs * (outputs + block)),
               *const values = weights + kPlaces * inputs * outputs,
               *const gradients = Scratch(1, kPlaces * block * outputs);
  for (int64_t start = 0; start < tiles.count(); start += block) {
    const int64_t count = std::min(block, tiles.count() - start);
    Rows(count, kPlaces * (inputs + outputs), [&](int64_t first, int64_t last, int) {
      const float *pixels[16];
      for (int64_t t = first; t < last; ++t) {
        tiles.Pixels(x, inputs, start + t, 4, 1, none.data(), pixels);
        InputTile(pixels, inputs, count * inputs, values + t * inputs);
        tiles.Pixels(dy, outputs, start + t, 2, 0, none.data(), pixels);
        GradientTile(pixels, outputs, count * outputs, gradients + t * outputs);
      }
    });
    Rows(kPlaces, count * inputs * outputs, [&](int64_t first, int64_t last, int) {
      for (int64_t p = first; p < last; ++p)
        gemm()('T', 'N', outputs, inputs, count, 1.0f, gradients + p * count * outputs, outputs,
               values + p * count * inputs, inputs, start == 0 ? 0.0f : 1.0f,
               weights + p * inputs * outputs, inputs);
    });
  }
  WeightTilesGrad(weights, outputs, inputs, dweight);
}

}  // namespace mindvit
