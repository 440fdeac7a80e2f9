// Depth-wise 3x3 convolutions, and the columns of any other.

#include "conv.h"

#include <algorithm>

#include "sums.h"

namespace mindvit {

std::vector<float> Taps(const float *weight, int64_t channels) {
  std::vector<float> taps(9 * channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < 9; ++t) taps[t * channels + c] = weight[c * 9 + t];
  return taps;
}

namespace {

// dx: each input pixel under the outputs whose kernels it was under
void ConvolveInputGrad(const ImageShape &in, const ImageShape &out, const float *weight,
                       const float *dy, float *dx) {
  const int64_t channels = in.channels, stride = StrideOf(in, out);
  const std::vector<float> taps = Taps(weight, channels), none(channels, 0.0f);
  const float *w = taps.data(), *zeros = none.data();
  Rows(in.batch * in.height, in.row() * 4, [=](int64_t first, int64_t last, int) {
    const float *p[9];
    for (int64_t r = first; r < last; ++r)
      for (int64_t ix = 0; ix < in.width; ++ix) {
        const int64_t b = r / in.height, iy = r % in.height;
        for (int64_t t = 0; t < 9; ++t) {
          const int64_t y = iy + 1 - t / 3,
                        c = ix + 1 - t % 3;  // times the stride, the output whose tap t lies here
          const bool inside = y >= 0 && c >= 0 && y % stride == 0 && c % stride == 0 &&
                              y / stride < out.height && c / stride < out.width;
          p[t] = inside ? dy + ((b * out.height + y / stride) * out.width + c / stride) * channels
                        : zeros;
        }
        Weighed(p, w, zeros, dx + (r * in.width + ix) * channels, channels);
      }
  });
}

}  // namespace

void ConvolveGrad(const float *x, const ImageShape &in, const ImageShape &out, const float *weight,
                  const float *dy, const ConvGrads &grads) {
  ConvolveInputGrad(in, out, weight, dy, grads.dx);
  const int64_t channels = in.channels;
  const std::vector<float> none(channels, 0.0f);
  const Window window{x, in, StrideOf(in, out), none.data()};
  // a row of pixels is a block of its own
  const auto sums =
      SumRows(out.batch * out.height, out.row() * 4, 1, 10 * channels, [=](int64_t r, float *sum) {
        const float *p[9];
        for (int64_t ox = 0; ox < out.width; ++ox) {
          window.Under(r / out.height, r % out.height, ox, p);
          const float *d = dy + (r * out.width + ox) * channels;
          for (int64_t t = 0; t < 9; ++t) {
            float *to = sum + t * channels;
            const float *from = p[t];
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) to[c] += from[c] * d[c];
          }
          AddTo(sum + 9 * channels, d, channels);
        }
      });
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < 9; ++t) grads.dweight[c * 9 + t] = sums[t * channels + c];
  std::copy(sums.begin() + 9 * channels, sums.end(), grads.dbias);
}

void Columns(const float *x, const ImageShape &in, const ImageShape &out,
             const ConvGeometry &geometry, int64_t first, int64_t last, float *columns) {
  const int64_t k = geometry.kernel, stride = geometry.stride, padding = geometry.padding,
                line = k * in.channels;
  for (int64_t r = first; r < last; ++r)
    for (int64_t ox = 0; ox < out.width; ++ox)
      for (int64_t ky = 0; ky < k; ++ky) {
        const int64_t y = r % out.height * stride + ky - padding, left = ox * stride - padding;
        float *to = columns + (((r - first) * out.width + ox) * k + ky) * line;
        if (y < 0 || y >= in.height) {
          std::fill(to, to + line, 0.0f);
          continue;
        }
        const int64_t from = std::max<int64_t>(0, -left),
                      until = std::max(from, std::min(k, in.width - left));
        std::fill(to, to + from * in.channels, 0.0f);
        const float *row = x + ((r / out.height * in.height + y) * in.width + left) * in.channels;
        std::copy(row + from * in.channels, row + until * in.channels, to + from * in.channels);
        std::fill(to + until * in.channels, to + line, 0.0f);
      }
}

void ColumnsGrad(const float *dcolumns, const ImageShape &in, const ImageShape &out,
                 const ConvGeometry &geometry, float *dx) {
  const int64_t k = geometry.kernel, stride = geometry.stride, padding = geometry.padding,
                width = k * k * in.channels;
  Rows(in.batch * in.height, in.row() * 4, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      float *row = dx + r * in.row();
      std::fill(row, row + in.row(), 0.0f);
      for (int64_t ky = 0; ky < k; ++ky) {
        const int64_t y = r % in.height + padding - ky;
        if (y < 0 || y % stride != 0 || y / stride >= out.height) continue;
        const float *line = dcolumns +
                            (r / in.height * out.height + y / stride) * out.width * width +
                            ky * k * in.channels;
        for (int64_t ox = 0; ox < out.width; ++ox) {
          const int64_t left = ox * stride - padding, from = std::max<int64_t>(0, -left),
                        until = std::max(from, std::min(k, in.width - left));
          const float *source = line + ox * width;
          for (int64_t i = from * in.channels; i < until * in.channels; ++i)
            row[left * in.channels + i] += source[i];
        }
      }
    }
  });
}

}  // namespace mindvit

using namespace mindvit;

// x (B, H, W, C), weight (C, 1, 3, 3), bias (C,) -> y (B, H', W', C); the stride follows from the
// sizes
KERNEL(Depthwise) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  const Output y = args.out();
  Convolve(x, ShapeOf(x), ShapeOf(y), {weight, bias}, y, [](int64_t) {});
}

KERNEL(DepthwiseGrad) {
  const Input x = args.in(), weight = args.in(), dy = args.in();
  const Output dx = args.out(), dweight = args.out(), dbias = args.out();
  ConvolveGrad(x, ShapeOf(x), ShapeOf(dy), weight, dy, {dx, dweight, dbias});
}

// x (B, H, W, I), geometry (3,): kernel, stride, padding; -> columns (B, H', W', k*k*I), what lies
// under the kernel at each place
KERNEL(Im2col) {
  const Input x = args.in();
  const ConvGeometry geometry(args.in());
  const Output columns = args.out();
  const ImageShape in = ShapeOf(x), out = ShapeOf(columns);
  Rows(out.batch * out.height, out.row(), [&](int64_t first, int64_t last, int) {
    Columns(x, in, out, geometry, first, last, columns + first * out.row());
  });
}

// dcolumns, geometry, x (for its size) -> dx
KERNEL(Im2colGrad) {
  const Input dcolumns = args.in();
  const ConvGeometry geometry(args.in());
  const ImageShape in = ShapeOf(args.in()), out = ShapeOf(dcolumns);
  ColumnsGrad(dcolumns, in, out, geometry, args.out());
}
