// Of all tensors of a network at once.

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernel.h"
#include "parallel.h"

using namespace mindvit;

namespace {

constexpr int64_t kPiece = 4096;

// values first .. first + count of the tensor with that number
struct Piece {
  int tensor;
  int64_t first, count;
};

std::vector<Piece> PiecesOf(const std::vector<Input> &tensors) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t values = tensors[i].size();
    for (int64_t start = 0; start < values; start += kPiece)
      pieces.push_back({static_cast<int>(i), start, std::min(kPiece, values - start)});
  }
  return pieces;
}

std::vector<Input> Inputs(Args &args, int count) {
  std::vector<Input> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back(args.in());
  return tensors;
}

std::vector<Output> Changed(Args &args, int count) {
  std::vector<Output> tensors;
  for (int i = 0; i < count; ++i) tensors.push_back(args.changed());
  return tensors;
}

}  // namespace

// any number of tensors -> the sum of all their squares (1,)
KERNEL(SquareSum) {
  const std::vector<Input> tensors = Inputs(args, args.left() - 1);
  const Output out = args.out();
  const std::vector<Piece> pieces = PiecesOf(tensors);
  std::vector<double> sums(pieces.size());
  Rows(pieces.size(), kPiece, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const float *x = tensors[pieces[i].tensor] + pieces[i].first;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < pieces[i].count; ++j) sum += x[j] * x[j];
      sums[i] = sum;
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  out[0] = static_cast<float>(total);
}

// n weights, n first and n second moments, n gradients, decay (n,), lr_scales (n,), numbers (5,):
// rate, unit of decay, beta1, beta2, eps -> (1,) Weights and moments change where they lie: w -= lr
// (m / (sqrt(v) + eps) + unit decay w)
KERNEL(AdamW) {
  const int n = (args.left() - 4) / 4;
  const std::vector<Output> weights = Changed(args, n), exp_avg = Changed(args, n),
                            exp_avg_sq = Changed(args, n);
  const std::vector<Input> gradients = Inputs(args, n);
  const Input decay = args.in(), lr_scales = args.in(), numbers = args.in();
  const Output done = args.out();
  const float rate = numbers[0], unit = numbers[1], beta1 = numbers[2], beta2 = numbers[3],
              eps = numbers[4];
  const std::vector<Piece> pieces = PiecesOf(gradients);
  Rows(pieces.size(), kPiece * 4, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int tensor = pieces[i].tensor;
      const int64_t start = pieces[i].first, values = pieces[i].count;
      float *w = weights[tensor] + start, *m = exp_avg[tensor] + start,
            *v = exp_avg_sq[tensor] + start;
      const float *g = gradients[tensor] + start;
      const float lr = rate * lr_scales[tensor], shrink = unit * decay[tensor];
#pragma omp simd
      for (int64_t j = 0; j < values; ++j) {
        m[j] += (1.0f - beta1) * (g[j] - m[j]);
        v[j] += (1.0f - beta2) * (g[j] * g[j] - v[j]);
        w[j] -= lr * (m[j] / (std::sqrt(v[j]) + eps) + shrink * w[j]);
      }
    }
  });
  done[0] = 1.0f;
}
