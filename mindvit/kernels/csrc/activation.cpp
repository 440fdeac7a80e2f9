// GELU(x) of any shape, and softmax over the last axis.

#include <algorithm>

#include "kernel.h"
#include "math.h"
#include "parallel.h"

using namespace mindvit;

KERNEL(GeluForward) {
  const Input x = args.in();
  const Output y = args.out();
  Rows(x.size(), 4, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) y[i] = Gelu(x[i]);
  });
}

KERNEL(GeluGrad) {
  const Input x = args.in(), dy = args.in();
  const Output dx = args.out();
  Rows(x.size(), 4, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) dx[i] = dy[i] * GeluSlope(x[i]);
  });
}

KERNEL(SoftmaxForward) {
  const Input x = args.in();
  const Output y = args.out();
  const int64_t width = x.dim(-1);
  Rows(x.size() / width, width * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      std::copy(x + r * width, x + (r + 1) * width, y + r * width);
      SoftmaxRow(y + r * width, width);
    }
  });
}

KERNEL(SoftmaxGrad) {
  const Input y = args.in(), dy = args.in();
  const Output dx = args.out();
  const int64_t width = y.dim(-1);
  Rows(y.size() / width, width, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      SoftmaxRowGrad(y + r * width, dy + r * width, dx + r * width, width);
  });
}
