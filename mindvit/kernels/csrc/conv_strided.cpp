// Convolutions of any kernel and stride. What lies under the kernel (columns) is made for some rows
// of outputs at a time, multiplied and forgotten: of a kernel of 32 x 32 with stride 4 it is 64
// times the image.

#include <algorithm>
#include <vector>

#include "conv.h"
#include "gemm.h"
#include "kernel.h"
#include "parallel.h"
#include "sums.h"

using namespace mindvit;

namespace {

constexpr int64_t kColumns = 1 << 18;  // values of columns that stay near: a megabyte

// weight (O, I, places) -> (O, places, I), the order of columns; back: the other way
void ToColumns(const float *weight, int64_t outputs, int64_t inputs, int64_t places, bool back,
               float *to) {
  const int64_t across = back ? inputs : places, down = back ? places : inputs;
  Rows(outputs, inputs * places, [=](int64_t first, int64_t last, int) {
    for (int64_t o = first; o < last; ++o)
      for (int64_t a = 0; a < across; ++a)
        for (int64_t d = 0; d < down; ++d)
          to[(o * across + a) * down + d] = weight[(o * down + d) * across + a];
  });
}

// Of maps `in` to maps `out`
struct Strided {
  const ConvGeometry geometry;
  const ImageShape in, out;
  const int64_t places = geometry.kernel * geometry.kernel, width = places * in.channels,
                rows = out.batch * out.height;

  // body(first row of outputs, how many, part, columns): of few outputs a place the columns are all
  // that is read, and must be near; of many the weights are
  template <typename Body>
  void Blocks(const Body &body) const {
    const int64_t most = std::min(kTile, std::max(kColumns / width, 4 * out.channels)),
                  lines = std::max<int64_t>(1, most / out.width);
    Rows(rows, out.row() * width, [&](int64_t first, int64_t last, int part) {
      float *columns = Scratch(0, std::min(lines, last - first) * out.width * width);
      for (int64_t r = first; r < last; r += lines)
        body(r, std::min(lines, last - r), part, columns);
    });
  }
};

}  // namespace

// x (B, H, W, I), weight (O, I, k, k), bias (O,), geometry (3,): kernel, stride, padding -> y (B, H',
// W', O)
PRODUCTS_KERNEL(Conv) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  const ConvGeometry geometry(args.in());
  const Output y = args.out();
  const Strided conv{geometry, ShapeOf(x), ShapeOf(y)};
  const int64_t outputs = conv.out.channels;
  std::vector<float> weights(weight.size());
  ToColumns(weight, outputs, conv.in.channels, conv.places, false, weights.data());
  const RightOperand right('T', conv.width, outputs, weights.data());
  conv.Blocks([&](int64_t first, int64_t lines, int, float *columns) {
    Columns(x, conv.in, conv.out, geometry, first, first + lines, columns);
    float *to = y + first * conv.out.row();
    right.Times(lines * conv.out.width, columns, to);
    for (int64_t place = 0; place < lines * conv.out.width; ++place)
      AddTo(to + place * outputs, bias, outputs);
  });
}

// x, dy, geometry -> dweight (O, I, k, k), dbias (O,)
PRODUCTS_KERNEL(ConvWeightGrad) {
  const Input x = args.in(), dy = args.in();
  const ConvGeometry geometry(args.in());
  const Output dweight = args.out(), dbias = args.out();
  const Strided conv{geometry, ShapeOf(x), ShapeOf(dy)};
  const int64_t outputs = conv.out.channels;
  PartialSums sums(Threads(), outputs * conv.width);
  conv.Blocks([&](int64_t first, int64_t lines, int part, float *columns) {
    Columns(x, conv.in, conv.out, geometry, first, first + lines, columns);
    gemm()('T', 'N', outputs, conv.width, lines * conv.out.width, 1.0f, dy + first * conv.out.row(),
           outputs, columns, conv.width, 1.0f, sums.of(part), conv.width);
  });
  ToColumns(sums.Sums().data(), outputs, conv.in.channels, conv.places, true, dweight);
  const auto bias = SumRows(conv.rows * conv.out.width, outputs, kBlock, outputs,
                            [=](int64_t r, float *sum) { AddTo(sum, dy + r * outputs, outputs); });
  std::copy(bias.begin(), bias.end(), dbias.data);
}

// weight, dy, geometry, x (for its size) -> dx, and the gradients of the columns of some images to
// work with (places, k k I)
PRODUCTS_KERNEL(ConvInputGrad) {
  const Input weight = args.in(), dy = args.in();
  const ConvGeometry geometry(args.in());
  const Input x = args.in();
  const Output dx = args.out(), columns = args.out();
  const Strided conv{geometry, ShapeOf(x), ShapeOf(dy)};
  const int64_t outputs = conv.out.channels, places = conv.out.height * conv.out.width,
                several = columns.dim(0) / places, width = conv.width;
  std::vector<float> weights(weight.size());
  ToColumns(weight, outputs, conv.in.channels, conv.places, false, weights.data());
  const RightOperand right('N', outputs, width, weights.data());
  for (int64_t image = 0; image < conv.in.batch; image += several) {
    ImageShape in = conv.in, out = conv.out;
    in.batch = out.batch = std::min(several, conv.in.batch - image);
    const float *from = dy + image * places * outputs;
    Tiles(out.batch * places, outputs * width, [&](int64_t first, int64_t count, int) {
      right.Times(count, from + first * outputs, columns + first * width);
    });
    ColumnsGrad(columns, in, out, geometry, dx + image * in.height * in.row());
  }
}
