// Axes in another order.

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel.h"
#include "parallel.h"
#include "transpose.h"

using namespace mindvit;

namespace {

constexpr int64_t kLarge = 64;  // of a square that a thread moves at once

// An axis of the output: from how far apart its values come in x, and where they go in y
struct Moved {
  int64_t size, from, to;
};

// y's axes, those that lie side by side in x too as one; y's axis i is x's axis order[i]
std::vector<Moved> MovedAxes(const Input &x, const Input &order, const Output &y) {
  std::vector<Moved> axes;
  for (int i = 0; i < y.ndim; ++i) {
    const int own = static_cast<int>(order[i]);
    int64_t from = 1, to = 1;
    for (int axis = own + 1; axis < x.ndim; ++axis) from *= x.dim(axis);
    for (int axis = i + 1; axis < y.ndim; ++axis) to *= y.dim(axis);
    const int64_t size = y.dim(i);
    if (size == 1) continue;
    if (!axes.empty() && axes.back().from == from * size)
      axes.back() = {axes.back().size * size, from, to};
    else
      axes.push_back({size, from, to});
  }
  return axes;
}

// body(where to begin in x, where in y) for each place on the axes, shared out among threads
template <typename Body>
void EachPlace(const std::vector<Moved> &axes, int64_t width, const Body &body) {
  int64_t rows = 1;
  for (const Moved &axis : axes) rows *= axis.size;
  Rows(rows, width, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      int64_t rest = r, from = 0, to = 0;
      for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
        from += rest % axis->size * axis->from;
        to += rest % axis->size * axis->to;
        rest /= axis->size;
      }
      body(from, to);
    }
  });
}

}  // namespace

// x, order (as many as axes) -> y
KERNEL(Transpose) {
  const Input x = args.in(), order = args.in();
  const Output y = args.out();
  std::vector<Moved> axes = MovedAxes(x, order, y);
  if (axes.empty()) axes.push_back({1, 1, 1});
  const Moved last = axes.back();
  axes.pop_back();
  if (last.from == 1) {
    EachPlace(axes, last.size, [=](int64_t from, int64_t to) {
      std::memcpy(y + to, x + from, last.size * sizeof(float));
    });
    return;
  }
  // squares of the axes that are the last in x and in y
  const auto found =
      std::find_if(axes.begin(), axes.end(), [](const Moved &axis) { return axis.from == 1; });
  const Moved inner = *found;
  *found = {(inner.size + kLarge - 1) / kLarge, kLarge, kLarge * inner.to};
  axes.push_back({(last.size + kLarge - 1) / kLarge, kLarge * last.from, kLarge});
  EachPlace(axes, kLarge * kLarge, [=](int64_t from, int64_t to) {
    // all other axes' steps are multiples of these two's sizes
    const int64_t columns = std::min(kLarge, inner.size - from % inner.size),
                  rows = std::min(kLarge, last.size - to % last.size);
    TransposeMatrix(x + from, last.from, rows, columns, y + to, inner.to);
  });
}
