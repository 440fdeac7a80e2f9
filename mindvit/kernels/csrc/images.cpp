// Images as they come from the data pipeline.

#include <algorithm>
#include <vector>

#include "conv.h"
#include "kernel.h"
#include "parallel.h"

using namespace mindvit;

namespace {

// uint8 images (B, H, W, C), times a factor and plus an offset a channel
struct RawImages {
  const Tensor<const uint8_t> x;
  const Input factor, offset;
  const int64_t batch, height, width, channels, line;
  std::vector<float> factors, offsets;  // for each value of a row of pixels

  explicit RawImages(Args &args)
      : x(args.next<const uint8_t>()),
        factor(args.in()),
        offset(args.in()),
        batch(x.dim(0)),
        height(x.dim(1)),
        width(x.dim(2)),
        channels(x.dim(3)),
        line(width * channels),
        factors(line),
        offsets(line) {
    for (int64_t i = 0; i < line; ++i) {
      factors[i] = factor[i % channels];
      offsets[i] = offset[i % channels];
    }
  }

  // row y of image b -> (W, C)
  void Row(int64_t b, int64_t y, float *to) const {
    const uint8_t *from = x + (b * height + y) * line;
    const float *times = factors.data(), *plus = offsets.data();
#pragma omp simd
    for (int64_t i = 0; i < line; ++i) to[i] = from[i] * times[i] + plus[i];
  }

  // body(b, y, where its row y stands in the first of the C planes of a (B, C, H, W))
  template <typename Body>
  void Each(float *images, const Body &body) const {
    Rows(batch * height, line * 2, [&](int64_t first, int64_t last, int) {
      for (int64_t r = first; r < last; ++r)
        body(r / height, r % height,
             images + (r / height * channels * height + r % height) * width);
    });
  }
};

}  // namespace

// uint8 x (B, H, W, C), factor (C,), offset (C,) -> x factor + offset (B, C, H, W)
KERNEL(Pixels) {
  const RawImages images(args);
  const Output out = args.out();
  const int64_t channels = images.channels, width = images.width, plane = images.height * width;
  images.Each(out, [&](int64_t b, int64_t y, float *to) {
    float *line = Scratch(0, images.line);
    images.Row(b, y, line);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < width; ++i) to[c * plane + i] = line[i * channels + c];
  });
}

// and noise (H, W, C), which fills each image's box, int32 boxes (B, 4): top, bottom, left, right;
// and share (H, W, 1), that of an image's own pixels where it is mixed with the one as far from the
// batch's end as it is from the start
KERNEL(MixedPixels) {
  const RawImages images(args);
  const Input noise = args.in();
  const Tensor<const int32_t> boxes = args.next<const int32_t>();
  const Input share = args.in();
  const Output out = args.out();
  const int64_t channels = images.channels, width = images.width, plane = images.height * width;
  const auto erased = [&](int64_t b, int64_t y, float *to) {
    images.Row(b, y, to);
    const int32_t *box = boxes + b * 4;
    if (y < box[0] || y >= box[1]) return;
    for (int64_t i = box[2] * channels; i < box[3] * channels; ++i)
      to[i] = noise[y * images.line + i];
  };
  images.Each(out, [&](int64_t b, int64_t y, float *to) {
    float *line = Scratch(0, images.line), *other = Scratch(1, images.line);
    erased(b, y, line);
    erased(images.batch - 1 - b, y, other);
    const float *own = share + y * width;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < width; ++i)
        to[c * plane + i] =
            line[i * channels + c] * own[i] + other[i * channels + c] * (1.0f - own[i]);
  });
}
