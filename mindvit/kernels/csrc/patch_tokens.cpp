// CrossViT's beginning: patches that do not overlap, multiplied, after a class token, all with
// their positions.

#include <algorithm>

#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

// Images (B, C, H, W) as patches of side x side: a row of C side side values each
struct Patches {
  const float *x;
  int64_t channels, height, width, side, number, values;

  Patches(const Input &images, int64_t side_)
      : x(images),
        channels(images.dim(1)),
        height(images.dim(2)),
        width(images.dim(3)),
        side(side_),
        number(height / side * (width / side)),
        values(channels * side * side) {}

  Patches(const float *x_, const int64_t *shape, int64_t side_)
      : x(x_),
        channels(shape[1]),
        height(shape[2]),
        width(shape[3]),
        side(side_),
        number(height / side * (width / side)),
        values(channels * side * side) {}

  // patch `place` of sample b
  void Copy(int64_t b, int64_t place, float *to) const {
    const int64_t top = place / (width / side) * side, left = place % (width / side) * side;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = top; y < top + side; ++y, to += side) {
        const float *from = x + ((b * channels + c) * height + y) * width + left;
        std::copy(from, from + side, to);
      }
  }
};

}  // namespace

// x (B, C, H, W), weight (D, C, side, side), bias (D,), class token (1, 1, D), positions (1, 1 + N,
// D) -> tokens (B, 1 + N, D), patches (B, N, C side side)
PRODUCTS_KERNEL(PatchTokens) {
  const Input x = args.in(), weight = args.in(), bias = args.in(), cls = args.in(),
              positions = args.in();
  const Output tokens = args.out(), columns = args.out();
  const Patches patches(x, weight.dim(2));
  const int64_t batch = x.dim(0), n = patches.number, in = patches.values, d = weight.dim(0);
  Tiles(batch * n, in * d, [&](int64_t start, int64_t count, int) {
    for (int64_t first = start, rows; first < start + count; first += rows) {
      const int64_t b = first / n, place = first % n;
      rows = std::min(n - place, start + count - first);  // within a sample
      for (int64_t r = first; r < first + rows; ++r) patches.Copy(b, r % n, columns + r * in);
      float *to = tokens + (first + b + 1) * d;
      gemm()('N', 'T', rows, d, in, 1.0f, columns + first * in, in, weight, in, 0.0f, to, d);
      for (int64_t r = 0; r < rows; ++r) {
        AddTo(to + r * d, bias, d);
        AddTo(to + r * d, positions + (place + r + 1) * d, d);
      }
    }
  });
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < d; ++c) tokens[b * (n + 1) * d + c] = cls[c] + positions[c];
}

// patches (B, N, C side side), dtokens (B, 1 + N, D) -> the gradients of weight, bias, class token
// and positions
PRODUCTS_KERNEL(PatchTokensGrad) {
  const Input columns = args.in(), dtokens = args.in();
  const Output dweight = args.out(), dbias = args.out(), dcls = args.out(), dpositions = args.out();
  const int64_t batch = columns.dim(0), n = columns.dim(1), in = columns.dim(2), d = dtokens.dim(2),
                sample = (n + 1) * d;
  Rows(d, batch * n * in, [=](int64_t first, int64_t last, int) {
    for (int64_t b = 0; b < batch; ++b)
      gemm()('T', 'N', last - first, in, n, 1.0f, dtokens + b * sample + d + first, d,
             columns + b * n * in, in, b == 0 ? 0.0f : 1.0f, dweight + first * in, in);
  });
  Rows(n + 1, batch * d, [=](int64_t first, int64_t last, int) {
    std::copy(dtokens + first * d, dtokens + last * d, dpositions + first * d);
    for (int64_t b = 1; b < batch; ++b)
      AddTo(dpositions + first * d, dtokens + b * sample + first * d, (last - first) * d);
  });
  const auto sums = SumRows(
      n, d, kBlock, d, [=](int64_t r, float *sum) { AddTo(sum, dpositions + (r + 1) * d, d); });
  std::copy(sums.begin(), sums.end(), dbias.data);
  std::copy(dpositions.data, dpositions + d, dcls.data);
}
