#include "class_query.h"

#include "kernel.h"
#include "parallel.h"

using namespace mindvit;

namespace {

ClassQueries ClassQueriesOf(const Input &q, const Input &y, int64_t seen) {
  return {q.dim(0), q.dim(1), q.dim(2), y.dim(1), y.dim(1) - (seen - 1), seen - 1};
}

}  // namespace

// q (B, heads, C), class tokens (B, 1, C), y (B, N, C) -> what each query sees (B, heads, C),
// weights (B, heads, 1 + patches)
PRODUCTS_KERNEL(ClassQuery) {
  const Input q = args.in(), cls = args.in(), y = args.in();
  const Output seen = args.out(), weights = args.out();
  const ClassQueries size = ClassQueriesOf(q, y, weights.dim(2));
  Rows(size.batch, size.rows * size.channels * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) size.Forward(b, q, cls, y, weights, seen);
  });
}

PRODUCTS_KERNEL(ClassQueryGrad) {
  const Input q = args.in(), cls = args.in(), y = args.in(), weights = args.in(), dseen = args.in();
  const Output dq = args.out(), dcls = args.out(), dy = args.out();
  const ClassQueries size = ClassQueriesOf(q, y, weights.dim(2));
  Rows(size.batch, size.rows * size.channels * 4, [=](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b)
      size.Backward(b, {q, cls, y, weights}, dseen, {dq, dcls, dy});
  });
}
