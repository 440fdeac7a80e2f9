// Depth-wise 3x3 convolutions of B x H x W x C, and what lies under any other kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "kernel.h"
#include "math.h"
#include "parallel.h"

namespace mindvit {

struct ImageShape {
  int64_t batch, height, width, channels;
  int64_t row() const { return width * channels; }
};

template <typename T>
ImageShape ShapeOf(const Tensor<T> &x) {
  return {x.dim(0), x.dim(1), x.dim(2), x.dim(3)};
}

inline int64_t StrideOf(const ImageShape &in, const ImageShape &out) {
  return out.height == in.height && out.width == in.width ? 1 : 2;
}

// weight (C, 1, 3, 3) -> 9 rows of C
std::vector<float> Taps(const float *weight, int64_t channels);

// the nine pixels of `x` under the kernel at an output (row oy, column ox), or `zeros` beyond the
// border
struct Window {
  const float *x;
  ImageShape in;
  int64_t stride;
  const float *zeros;

  void Under(int64_t b, int64_t oy, int64_t ox, const float **pixels) const {
    for (int64_t t = 0; t < 9; ++t) {
      const int64_t y = oy * stride + t / 3 - 1, c = ox * stride + t % 3 - 1;
      const bool inside = y >= 0 && y < in.height && c >= 0 && c < in.width;
      pixels[t] = inside ? x + ((b * in.height + y) * in.width + c) * in.channels : zeros;
    }
  }
};

// y = start + sum over t of weight[t] * p[t], for all channels; taps: 9 rows of weights
inline void Weighed(const float *const *p, const float *taps, const float *start, float *y,
                    int64_t channels) {
  const float *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3], *p4 = p[4], *p5 = p[5], *p6 = p[6],
              *p7 = p[7], *p8 = p[8];
  const int64_t n = channels;
#pragma omp simd
  for (int64_t c = 0; c < n; ++c)
    y[c] = start[c] + taps[c] * p0[c] + taps[n + c] * p1[c] + taps[2 * n + c] * p2[c] +
           taps[3 * n + c] * p3[c] + taps[4 * n + c] * p4[c] + taps[5 * n + c] * p5[c] +
           taps[6 * n + c] * p6[c] + taps[7 * n + c] * p7[c] + taps[8 * n + c] * p8[c];
}

struct ConvWeights {
  const float *weight, *bias;  // (C, 1, 3, 3), (C,)
};

// y (B, H', W', C) = x (B, H, W, C) under the taps, plus bias; padding 1. then(r) follows each of
// the B H' rows of pixels.
template <typename Then>
void Convolve(const float *x, const ImageShape &in, const ImageShape &out, const ConvWeights &of,
              float *y, const Then &then) {
  const int64_t channels = in.channels;
  const std::vector<float> taps = Taps(of.weight, channels), none(channels, 0.0f);
  const Window window{x, in, StrideOf(in, out), none.data()};
  const float *w = taps.data(), *bias = of.bias;
  Rows(out.batch * out.height, out.row() * 4, [&, w, bias](int64_t first, int64_t last, int) {
    const float *p[9];
    for (int64_t r = first; r < last; ++r) {
      for (int64_t ox = 0; ox < out.width; ++ox) {
        window.Under(r / out.height, r % out.height, ox, p);
        Weighed(p, w, bias, y + (r * out.width + ox) * channels, channels);
      }
      then(r);
    }
  });
}

struct ConvGrads {
  float *dx, *dweight, *dbias;
};

// its gradients
void ConvolveGrad(const float *x, const ImageShape &in, const ImageShape &out, const float *weight,
                  const float *dy, const ConvGrads &grads);

struct ConvGeometry {
  int64_t kernel, stride, padding;
  explicit ConvGeometry(const Input &given)
      : kernel(given[0]), stride(given[1]), padding(given[2]) {}
};

// columns (W', k, k, I) of each of the rows of outputs from `first` to before `last`, of B H' rows:
// the input under the kernel
void Columns(const float *x, const ImageShape &in, const ImageShape &out,
             const ConvGeometry &geometry, int64_t first, int64_t last, float *columns);

// dcolumns (B, H', W', k, k, I) -> dx (B, H, W, I)
void ColumnsGrad(const float *dcolumns, const ImageShape &in, const ImageShape &out,
                 const ConvGeometry &geometry, float *dx);

}  // namespace mindvit
