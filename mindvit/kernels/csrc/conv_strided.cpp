// Convolutions whose kernel is some strides high and wide. The input is cut into blocks of stride x
// stride pixels, of which an output's kernel covers t x t: one product finds what each block gives
// to all the outputs that see it, and these are added up. Nothing is repeated as often as kernels
// overlap (32 x 32 with stride 4: 64 times).

#include <algorithm>
#include <vector>

#include "conv.h"
#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

constexpr int64_t kNear = 1 << 18;  // values that stay near: a megabyte

// An axis: blocks from `first` to before `last` have pixels; block b begins at b stride - padding
// and is under the outputs from b - t + 1 to b
struct BlockAxis {
  int64_t first, last;
  BlockAxis(const ConvGeometry &of, int64_t pixels, int64_t outputs)
      : first(of.padding / of.stride),
        last(std::min(outputs - 1 + of.kernel / of.stride,
                      (pixels - 1 + of.padding) / of.stride + 1)) {}
};

// Rows of blocks of an image, and the rows of outputs that are asked for
struct BlockRows {
  int64_t image, first, count, from, until;
};

// Of maps `in` to maps `out`. A block has `width` values, pixel by pixel; what it gives are `wide`:
// for each of the t outputs above each other that see it, t beside each other, all their channels.
struct Blocks {
  const ConvGeometry geometry;
  const ImageShape in, out;
  const int64_t t = geometry.kernel / geometry.stride,
                width = geometry.stride * geometry.stride * in.channels,
                wide = t * t * out.channels;
  const BlockAxis down{geometry, in.height, out.height}, across{geometry, in.width, out.width};
  const int64_t columns = across.last - across.first;
  const int64_t rows = in.batch * (down.last - down.first) * columns;  // blocks in all

  // body(band, part, the blocks of a band, what they give): rows of outputs, or, `by_block`, rows
  // of blocks are shared out among threads
  template <typename Body>
  void Bands(bool by_block, const Body &body) const {
    const int64_t lines = std::max<int64_t>(1, kNear / wide / columns),
                  height = by_block ? down.last - down.first : out.height;
    Rows(in.batch * height, columns * wide * width, [&](int64_t first, int64_t last, int part) {
      float *blocks = Scratch(0, lines * columns * width),
            *given = Scratch(1, lines * columns * wide);
      for (int64_t image = first / height; image * height < last; ++image) {
        const int64_t from = std::max<int64_t>(first - image * height, 0),
                      until = std::min(last - image * height, height);
        const int64_t begin = by_block ? down.first + from : std::max(down.first, from),
                      end = by_block ? down.first + until : std::min(down.last, until + t - 1);
        for (int64_t b = begin; b < end; b += lines)
          body(BlockRows{image, b, std::min(lines, end - b), by_block ? 0 : from,
                         by_block ? out.height : until},
               part, blocks, given);
      }
    });
  }

  // visit(place in blocks, place in x, values) for each row of pixels of each block that lies
  // inside
  template <typename Visit>
  void ForPixels(const BlockRows &band, const Visit &visit) const {
    const int64_t side = geometry.stride, line = side * in.channels;
    for (int64_t place = 0; place < band.count * columns; ++place)
      for (int64_t dy = 0; dy < side; ++dy) {
        const int64_t y = (band.first + place / columns) * side + dy - geometry.padding,
                      x = (across.first + place % columns) * side - geometry.padding,
                      begin = std::max<int64_t>(0, -x), end = std::min(side, in.width - x);
        if (y >= 0 && y < in.height)
          visit(place * width + dy * line + begin * in.channels,
                ((band.image * in.height + y) * in.width + x + begin) * in.channels,
                (end - begin) * in.channels);
      }
  }

  // visit(place in what blocks give, place in y, values) for outputs that lie side by side
  template <typename Visit>
  void ForOutputs(const BlockRows &band, const Visit &visit) const {
    for (int64_t place = 0; place < band.count * columns; ++place)
      for (int64_t above = 0; above < t; ++above) {
        const int64_t y = band.first + place / columns - above,
                      x = across.first + place % columns - t + 1, begin = std::max<int64_t>(0, -x),
                      end = std::min(t, out.width - x);
        if (y >= band.from && y < band.until)
          visit(place * wide + (above * t + begin) * out.channels,
                ((band.image * out.height + y) * out.width + x + begin) * out.channels,
                (end - begin) * out.channels);
      }
  }

  void BlocksOf(const BlockRows &band, const float *x, float *blocks) const {
    std::fill(blocks, blocks + band.count * columns * width, 0.0f);
    ForPixels(band, [=](int64_t to, int64_t from, int64_t values) {
      std::copy(x + from, x + from + values, blocks + to);
    });
  }

  // the gradient of what blocks give
  void GivenGrad(const BlockRows &band, const float *dy, float *given) const {
    std::fill(given, given + band.count * columns * wide, 0.0f);
    ForOutputs(band, [=](int64_t to, int64_t from, int64_t values) {
      std::copy(dy + from, dy + from + values, given + to);
    });
  }

  // visit(row and column in a matrix (wide, width), place in a weight (O, I, k, k)); threads share
  // out the outputs
  template <typename Visit>
  void ForWeights(const Visit &visit) const {
    const int64_t s = geometry.stride, k = geometry.kernel, inputs = in.channels;
    Rows(out.channels, k * k * inputs, [&](int64_t first, int64_t last, int) {
      for (int64_t o = first; o < last; ++o)
        for (int64_t y = 0; y < k; ++y)
          for (int64_t x = 0; x < k; ++x) {
            const int64_t row = (y / s * t + t - 1 - x / s) * out.channels + o,
                          column = (y % s * s + x % s) * inputs,
                          place = o * inputs * k * k + y * k + x;
            for (int64_t i = 0; i < inputs; ++i) visit(row, column + i, place + i * k * k);
          }
    });
  }

  std::vector<float> Matrix(const Input &weight) const {
    std::vector<float> matrix(weight.size());
    ForWeights([&](int64_t row, int64_t column, int64_t place) {
      matrix[row * width + column] = weight[place];
    });
    return matrix;
  }
};

}  // namespace

// x (B, H, W, I), weight (O, I, k, k), bias (O,), geometry (3,): kernel, stride, padding -> y (B,
// H', W', O)
PRODUCTS_KERNEL(Conv) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  const ConvGeometry geometry(args.in());
  const Output y = args.out();
  const Blocks conv{geometry, ShapeOf(x), ShapeOf(y)};
  const std::vector<float> matrix = conv.Matrix(weight);
  const RightOperand right('T', conv.width, conv.wide, matrix.data(), conv.rows);
  const int64_t outputs = conv.out.channels;
  Rows(y.size() / outputs, outputs, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) std::copy(bias.data, bias + outputs, y + r * outputs);
  });
  conv.Bands(false, [&](const BlockRows &band, int, float *blocks, float *given) {
    conv.BlocksOf(band, x, blocks);
    right.Times(band.count * conv.columns, blocks, given);
    conv.ForOutputs(band, [=](int64_t from, int64_t to, int64_t values) {
      AddTo(y + to, given + from, values);
    });
  });
}

// x, dy, geometry -> dweight (O, I, k, k), dbias (O,)
PRODUCTS_KERNEL(ConvWeightGrad) {
  const Input x = args.in(), dy = args.in();
  const ConvGeometry geometry(args.in());
  const Output dweight = args.out(), dbias = args.out();
  const Blocks conv{geometry, ShapeOf(x), ShapeOf(dy)};
  const int64_t outputs = conv.out.channels, width = conv.width, wide = conv.wide;
  PartialSums sums(Threads(), wide * width);  // (width, wide): oneDNN finds a wide result sooner
  conv.Bands(false, [&](const BlockRows &band, int part, float *blocks, float *given) {
    conv.BlocksOf(band, x, blocks);
    conv.GivenGrad(band, dy, given);
    gemm()('T', 'N', width, wide, band.count * conv.columns, 1.0f, blocks, width, given, wide, 1.0f,
           sums.of(part), wide);
  });
  const auto all = sums.Sums();
  conv.ForWeights([&](int64_t row, int64_t column, int64_t place) {
    dweight[place] = all[column * wide + row];
  });
  const auto bias = SumRows(dy.size() / outputs, outputs, kBlock, outputs,
                            [=](int64_t r, float *sum) { AddTo(sum, dy + r * outputs, outputs); });
  std::copy(bias.begin(), bias.end(), dbias.data);
}

// weight, dy, geometry, x (for its size) -> dx
PRODUCTS_KERNEL(ConvInputGrad) {
  const Input weight = args.in(), dy = args.in();
  const ConvGeometry geometry(args.in());
  const Input x = args.in();
  const Output dx = args.out();
  const Blocks conv{geometry, ShapeOf(x), ShapeOf(dy)};
  const std::vector<float> matrix = conv.Matrix(weight);
  const RightOperand right('N', conv.wide, conv.width, matrix.data(), conv.rows);
  std::fill(dx.data, dx + dx.size(), 0.0f);  // some pixels may be under no kernel
  conv.Bands(true, [&](const BlockRows &band, int, float *blocks, float *given) {
    conv.GivenGrad(band, dy, given);
    right.Times(band.count * conv.columns, given, blocks);
    conv.ForPixels(band, [=](int64_t from, int64_t to, int64_t values) {
      std::copy(blocks + from, blocks + from + values, dx + to);
    });
  });
}
