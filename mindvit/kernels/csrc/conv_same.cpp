// Convolutions with stride 1 that keep the sides of maps: 3x3 on many tiles by winograd.h, others
// as one product for each place under the kernel. In rows of pixels with a border, what lies under
// a place of the kernel is the same rows further on: products take it where it lies, and no columns
// are made.

#include <algorithm>
#include <vector>

#include "conv.h"
#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"
#include "winograd.h"

using namespace mindvit;

namespace {

constexpr int64_t kFewTiles = 256;

// A square kernel of an odd side, and the border that it needs
struct Square {
  int64_t side, border;
  explicit Square(int64_t k) : side(k), border(k / 2) {}
  int64_t places() const { return side * side; }
};

// rows [first, last) of an image, with `border` pixels of zeros at each side and rows of zeros
// where the image has none, one after the other
void CopyWithBorder(const float *image, const ImageShape &of, int64_t border, int64_t first,
                    int64_t last, float *to) {
  const int64_t wide = (of.width + 2 * border) * of.channels, edge = border * of.channels;
  for (int64_t y = first; y < last; ++y, to += wide) {
    if (y < 0 || y >= of.height) {
      std::fill(to, to + wide, 0.0f);
      continue;
    }
    std::fill(to, to + edge, 0.0f);
    std::copy(image + y * of.row(), image + (y + 1) * of.row(), to + edge);
    std::fill(to + edge + of.row(), to + wide, 0.0f);
  }
}

// weight (O, I, k, k) -> (k, k, O, I); back: the other way
void ByPlace(const float *weight, int64_t rows, int64_t inputs, int64_t places, bool back,
             float *to) {
  Rows(rows, inputs * places, [=](int64_t first, int64_t last, int) {
    for (int64_t o = first; o < last; ++o)
      for (int64_t t = 0; t < places; ++t)
        for (int64_t i = 0; i < inputs; ++i) {
          const int64_t there = (o * inputs + i) * places + t, here = (t * rows + o) * inputs + i;
          if (back)
            to[there] = weight[here];
          else
            to[here] = weight[there];
        }
  });
}

// y (B, H, W, outputs) = x (B, H, W, inputs) under the kernel, plus bias where there is one.
// weights: by place; flipped: the gradient of the input, where `weights` are of the forward kernel.
void ConvolveSame(const float *x, const ImageShape &in, const float *weights, const float *bias,
                  const Square &kernel, bool flipped, int64_t outputs, float *y) {
  const int64_t inputs = in.channels, wide = in.width + 2 * kernel.border;
  const int64_t lines = std::max<int64_t>(1, std::min(in.height, (2 * kTile + wide - 1) / wide)),
                blocks = (in.height + lines - 1) / lines;
  Rows(in.batch * blocks, lines * in.row() * outputs, [&](int64_t first, int64_t last, int) {
    float *rows = Scratch(0, (lines + 2 * kernel.border) * wide * inputs),
          *sums = Scratch(1, lines * wide * outputs);
    for (int64_t block = first; block < last; ++block) {
      const int64_t image = block / blocks, top = block % blocks * lines,
                    bottom = std::min(top + lines, in.height),
                    count = (bottom - top) * wide - 2 * kernel.border;
      CopyWithBorder(x + image * in.height * in.row(), in, kernel.border, top - kernel.border,
                     bottom + kernel.border, rows);
      for (int64_t t = 0; t < kernel.places(); ++t) {
        const float *from = rows + (t / kernel.side * wide + t % kernel.side) * inputs;
        const float *weight = weights + (flipped ? kernel.places() - 1 - t : t) * inputs * outputs;
        gemm()('N', flipped ? 'N' : 'T', count, outputs, inputs, 1.0f, from, inputs, weight,
               flipped ? outputs : inputs, t == 0 ? 0.0f : 1.0f, sums, outputs);
      }
      for (int64_t line = top; line < bottom; ++line) {
        const float *from = sums + (line - top) * wide * outputs;
        float *to = y + (image * in.height + line) * in.width * outputs;
        if (bias == nullptr) {
          std::copy(from, from + in.width * outputs, to);
          continue;
        }
        for (int64_t c = 0; c < in.width; ++c)
#pragma omp simd
          for (int64_t o = 0; o < outputs; ++o)
            to[c * outputs + o] = from[c * outputs + o] + bias[o];
      }
    }
  });
}

// whether fewer multiplications are worth the transformations, which the weights need too; what
// they make would lose too much by rounding to bfloat16
bool WinogradPays(const ImageShape &maps, const Square &kernel) {
  return kernel.side == 3 && WinogradTiles(maps).count() >= kFewTiles && !UsesBFloat16();
}

// Calls work(first, maps) for the images of `x` that are not all zeros, as many in a row as there
// are: of boxes' maps many are padding, which costs nothing. False for whatever has been left out.
template <typename Work>
std::vector<bool> ForImages(const float *x, const ImageShape &of, const Work &work) {
  const int64_t size = of.height * of.row();
  std::vector<bool> used(of.batch);
  for (int64_t image = 0; image < of.batch; ++image)
    used[image] =
        std::any_of(x + image * size, x + (image + 1) * size, [](float v) { return v != 0; });
  for (int64_t first = 0, last; first < of.batch; first = last) {
    for (last = first + 1; last < of.batch && used[last] == used[first];) ++last;
    ImageShape run = of;
    run.batch = last - first;
    if (used[first]) work(first, run);
  }
  return used;
}

// y (B, H, W, outputs) = x (B, H, W, inputs) under the kernel, plus bias where there is one;
// flipped: the gradient of the input. Images that are all zeros have the bias alone.
void ConvolveImages(const Input &x, const Input &weight, const float *bias, bool flipped,
                    const Output &y) {
  const Square kernel(weight.dim(2));
  const ImageShape in = ShapeOf(x), out = ShapeOf(y);
  const int64_t size = in.height * in.row(), outputs = out.height * out.row();
  std::vector<float> weights;  // by place, where they are wanted so
  const auto used = ForImages(x, in, [&](int64_t first, const ImageShape &run) {
    const float *from = x + first * size;
    float *to = y + first * outputs;
    if (WinogradPays(run, kernel)) {
      WinogradConvolve(from, run, weight, bias, flipped, out.channels, to);
      return;
    }
    if (weights.empty()) {
      weights.resize(weight.size());
      ByPlace(weight, weight.dim(0), weight.dim(1), kernel.places(), false, weights.data());
    }
    ConvolveSame(from, run, weights.data(), bias, kernel, flipped, out.channels, to);
  });
  for (int64_t image = 0; image < in.batch; ++image) {
    if (used[image]) continue;
    float *to = y + image * outputs;
    if (bias == nullptr)
      std::fill(to, to + outputs, 0.0f);
    else
      for (int64_t i = 0; i < outputs; i += out.channels)
        std::copy(bias, bias + out.channels, to + i);
  }
}

}  // namespace

// x (B, H, W, I), weight (O, I, k, k), bias (O,) -> y (B, H, W, O)
PRODUCTS_KERNEL(ConvSame) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  ConvolveImages(x, weight, bias, false, args.out());
}

// weight, dy (B, H, W, O) -> dx (B, H, W, I)
PRODUCTS_KERNEL(ConvSameInputGrad) {
  const Input weight = args.in(), dy = args.in();
  ConvolveImages(dy, weight, nullptr, true, args.out());
}

// x, dy -> dweight (O, I, k, k), dbias (O,). Threads share out the outputs.
PRODUCTS_KERNEL(ConvSameWeightGrad) {
  const Input x = args.in(), dy = args.in();
  const Output dweight = args.out(), dbias = args.out();
  const ImageShape in = ShapeOf(x), out = ShapeOf(dy);
  const Square kernel(dweight.dim(2));
  const int64_t border = kernel.border, wide = in.width + 2 * border, inputs = in.channels,
                outputs = out.channels, high = in.height + 2 * border;
  const auto bias = SumRows(out.batch * out.height * out.width, outputs, kBlock, outputs,
                            [=](int64_t r, float *sum) { AddTo(sum, dy + r * outputs, outputs); });
  std::copy(bias.begin(), bias.end(), dbias.data);
  if (WinogradPays(in, kernel)) {
    WinogradWeightGrad(x, in, dy, outputs, dweight);
    return;
  }
  std::vector<float> padded(high * wide * inputs), gradient(in.height * wide * outputs),
      sums(dweight.size());
  bool begun = false;
  const auto used = ForImages(dy, out, [](int64_t, const ImageShape &) {});
  for (int64_t image = 0; image < in.batch; ++image) {
    if (!used[image] && (begun || image + 1 < in.batch)) continue;
    Rows(high, wide * inputs, [&](int64_t first, int64_t last, int) {
      CopyWithBorder(x + image * in.height * in.row(), in, border, first - border, last - border,
                     padded.data() + first * wide * inputs);
    });
    // a row of the gradient and then zeros, so that its rows are as long as the input's
    Rows(in.height, wide * outputs, [&](int64_t first, int64_t last, int) {
      for (int64_t r = first; r < last; ++r) {
        const float *from = dy + (image * in.height + r) * out.row();
        float *to = gradient.data() + r * wide * outputs;
        std::copy(from, from + out.row(), to);
        std::fill(to + out.row(), to + wide * outputs, 0.0f);
      }
    });
    const int64_t count = in.height * wide - 2 * border;
    Rows(outputs, kernel.places() * inputs * count, [&](int64_t first, int64_t last, int) {
      for (int64_t t = 0; t < kernel.places(); ++t)
        gemm()('T', 'N', last - first, inputs, count, 1.0f, gradient.data() + first, outputs,
               padded.data() + (t / kernel.side * wide + t % kernel.side) * inputs, inputs,
               begun ? 1.0f : 0.0f, sums.data() + (t * outputs + first) * inputs, inputs);
    });
    begun = true;
  }
  ByPlace(sums.data(), outputs, inputs, kernel.places(), true, dweight);
}
