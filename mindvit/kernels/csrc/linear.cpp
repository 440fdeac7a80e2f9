#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "bfloat16.h"
#include "gemm.h"
#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "sums.h"
#include "transpose.h"

namespace mindvit {

namespace {

// Found among the libraries that this process has loaded.
Gemm FindGemm() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *found) {
        if (std::strstr(info->dlpi_name, "libdnnl.so") != nullptr)
          *static_cast<std::string *>(found) = info->dlpi_name;
        return 0;
      },
      &path);
  void *library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  return library == nullptr ? nullptr : reinterpret_cast<Gemm>(dlsym(library, "dnnl_sgemm"));
}

}  // namespace

Gemm Float32Gemm() {
  static const Gemm found = FindGemm();
  return found;
}

bool UsesBFloat16() { return InBFloat16() && BFloat16Gemm() != nullptr; }

Gemm gemm() { return UsesBFloat16() ? BFloat16Gemm() : Float32Gemm(); }

namespace {

constexpr int64_t kWorthCopying = 768;  // rows
constexpr int64_t kApart = 16;  // values between the copy's rows: they would come together in the
                                // cache were they a multiple of 4096 bytes apart

}  // namespace

RightOperand::RightOperand(char transpose, int64_t k, int64_t n, const float *data, int64_t rows)
    : k_(k), n_(n), transpose_(transpose), data_(data), stride_(transpose == 'N' ? n : k) {
  if (rows == 0) return;
  if (UsesBFloat16()) {
    packed_ = std::make_unique<PackedRight>(transpose, k, n, data);
    return;
  }
  if (transpose == 'N' || rows < kWorthCopying) return;
  copy_.reset(new float[k * (n + kApart)]);
  float *copy = copy_.get();
  const int64_t strips = (n + kSquare - 1) / kSquare;
  Rows(strips, kSquare * k, [=](int64_t first, int64_t last, int) {
    const int64_t from = first * kSquare, to = std::min(n, last * kSquare);
    TransposeMatrix(data + from * k, k, to - from, k, copy + from, n + kApart);
  });
  transpose_ = 'N', data_ = copy, stride_ = n + kApart;
}

void RightOperand::Times(int64_t m, const float *a, float *c) const {
  if (packed_)
    packed_->Times(m, a, c);
  else
    Float32Gemm()('N', transpose_, m, n_, k_, 1.0f, a, k_, data_, stride_, 0.0f, c, n_);
}

bool FewRows(const ProductSizes &size) {
  constexpr int64_t kRows = 256, kWeights = 1 << 17;  // fewer weights are near every core
  return size.rows <= kRows * Threads() && size.inputs * size.outputs >= kWeights &&
         !UsesBFloat16();
}

void Product(const float *x, const float *weight, const float *bias, const ProductSizes &size,
             float *y) {
  const int64_t in = size.inputs, out = size.outputs;
  if (FewRows(size)) {
    Rows(out, in * size.rows, [=](int64_t first, int64_t last, int) {
      Float32Gemm()('N', 'T', size.rows, last - first, in, 1.0f, x, in, weight + first * in, in,
                    0.0f, y + first, out);
      if (bias == nullptr) return;
      for (int64_t r = 0; r < size.rows; ++r)
        AddTo(y + r * out + first, bias + first, last - first);
    });
    return;
  }
  const RightOperand right('T', in, out, weight, size.rows);
  Tiles(size.rows, in * out, [=, &right](int64_t first, int64_t rows, int) {
    right.Times(rows, x + first * in, y + first * out);
    if (bias == nullptr) return;
    for (int64_t r = first; r < first + rows; ++r) AddTo(y + r * out, bias, out);
  });
}

void InputGrad(const float *weight, const float *dy, const ProductSizes &size, float *dx) {
  const int64_t in = size.inputs, out = size.outputs;
  const RightOperand right('N', out, in, weight, size.rows);
  Rows(size.rows, in * out, [=, &right](int64_t first, int64_t last, int) {
    right.Times(last - first, dy + first * out, dx + first * in);
  });
}

namespace {

// oneDNN finds a long and narrow result in up to twice the time of the wide one that is its
// transpose
constexpr int64_t kNarrow = 256;

// columns from `first` to before `last` of dy^T x, by way of x^T dy
void NarrowWeightGrad(const float *x, const float *dy, const ProductSizes &size, int64_t first,
                      int64_t last, float *dweight) {
  const int64_t in = size.inputs, out = size.outputs, count = last - first;
  float *wide = Scratch(0, in * count);
  gemm()('T', 'N', in, count, size.rows, 1.0f, x, in, dy + first, out, 0.0f, wide, count);
  TransposeMatrix(wide, count, in, count, dweight + first * in, in);
}

}  // namespace

// threads share out the outputs
void WeightGrad(const float *x, const float *dy, const ProductSizes &size, float *dweight,
                float *dbias) {
  const int64_t in = size.inputs, out = size.outputs;
  const bool narrow = in < out && in <= kNarrow && !UsesBFloat16();
  Rows(out, in * size.rows, [=](int64_t first, int64_t last, int) {
    if (narrow)
      NarrowWeightGrad(x, dy, size, first, last, dweight);
    else
      gemm()('T', 'N', last - first, in, size.rows, 1.0f, dy + first, out, x, in, 0.0f,
             dweight + first * in, in);
    if (dbias == nullptr) return;
    std::fill(dbias + first, dbias + last, 0.0f);
    AddRows(0, size.rows, kBlock, last - first, dbias + first,
            [=](int64_t r, float *sum) { AddTo(sum, dy + r * out + first, last - first); });
  });
}

}  // namespace mindvit

using namespace mindvit;

extern "C" __attribute__((visibility("default"))) int HasGemm() { return Float32Gemm() != nullptr; }

PRODUCTS_KERNEL(Linear) {
  const Input x = args.in(), weight = args.in(), bias = args.in();
  const Output y = args.out();
  Product(x, weight, bias, {x.size() / weight.dim(1), weight.dim(1), weight.dim(0)}, y);
}

PRODUCTS_KERNEL(LinearInputGrad) {
  const Input weight = args.in(), dy = args.in();
  const Output dx = args.out();
  InputGrad(weight, dy, {dx.size() / weight.dim(1), weight.dim(1), weight.dim(0)}, dx);
}

PRODUCTS_KERNEL(LinearWeightGrad) {
  const Input x = args.in(), dy = args.in();
  const Output dweight = args.out(), dbias = args.out();
  WeightGrad(x, dy, {x.size() / dweight.dim(1), dweight.dim(1), dweight.dim(0)}, dweight, dbias);
}
