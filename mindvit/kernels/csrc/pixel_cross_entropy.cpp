// Cross entropy of pixels whose logits are resized from smaller maps: neither the resized logits
// nor their gradients are ever kept.

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernel.h"
#include "math.h"
#include "parallel.h"
#include "resize.h"

using namespace mindvit;

namespace {

constexpr int64_t kLanes = 16;
constexpr float kNever = -1e30f;  // of which exp is 0

// The cross entropy of a pixel, times weight; row: its logits, which become their gradient
float PixelLoss(float *row, int64_t classes, int64_t label, float weight) {
  const float own = row[label];
  float most = row[0];
#pragma omp simd reduction(max : most)
  for (int64_t k = 0; k < classes; ++k) most = row[k] > most ? row[k] : most;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < classes; ++k) {
    row[k] = Exp(row[k] - most);
    sum += row[k];
  }
  const float share = weight / sum;
  for (int64_t k = 0; k < classes; ++k) row[k] *= share;
  row[label] -= weight;
  return weight * (std::log(sum) + most - own);
}

// to += factor from
void AddTimes(float *to, float factor, const float *from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

// What a thread adds to gradients: rows [first, last) of all maps' rows
struct GradientRows {
  int64_t first = 0, last = 0;
  std::vector<float> values;
};

}  // namespace

// logits (B, h, w, K), labels int32 (B, H, W), of which those that are no class count nothing,
// weights of the classes (K,), rows (H, h), columns (W, w) -> the sum over all pixels, divided by
// their number (1,), and its gradient to the logits (B, h, w, K)
KERNEL(PixelCrossEntropy) {
  const Input logits = args.in();
  const auto labels = args.next<const int32_t>();
  const Input weights = args.in(), rows = args.in(), columns = args.in();
  const Output loss = args.out(), gradient = args.out();
  const int64_t height = logits.dim(1), width = logits.dim(2), classes = logits.dim(3),
                line_size = width * classes, new_height = labels.dim(1), new_width = labels.dim(2),
                lines = labels.dim(0) * new_height;
  const Band down(rows, new_height, height), across(columns, new_width, width);
  // a pixel's classes and some that never are, so that a few classes fill whole vectors
  const int64_t padded = (classes + kLanes - 1) / kLanes * kLanes;
  std::vector<float> line_losses(lines);
  std::vector<GradientRows> found(PartsFor(lines * new_width * classes, lines));
  RunParts(static_cast<int>(found.size()), [&](int part, int parts) {
    const int64_t begin = lines * part / parts, end = lines * (part + 1) / parts;
    GradientRows &own = found[part];
    const auto low = [&](int64_t r) {
      return r / new_height * height + down.first[r % new_height];
    };
    own.first = low(begin);
    own.last = low(end - 1) + down.count;
    own.values.assign((own.last - own.first) * line_size, 0.0f);
    float *const line = Scratch(0, 2 * width * padded + line_size + padded),
                 *const slope = line + width * padded, *const flat = slope + width * padded,
                 *const pixel = flat + line_size;
    std::fill(line, slope, kNever);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t y = r % new_height;
      WeighedRows(logits + low(r) * line_size, line_size, down, y, new_height, line_size, flat);
      for (int64_t c = 0; c < width; ++c)
        std::copy_n(flat + c * classes, classes, line + c * padded);
      std::fill(slope, slope + width * padded, 0.0f);
      float sum = 0;
      for (int64_t c = 0; c < new_width; ++c) {
        const int64_t label = labels[r * new_width + c], left = across.first[c] * padded;
        if (label < 0 || label >= classes) continue;
        WeighedRows(line + left, padded, across, c, new_width, padded, pixel);
        sum += PixelLoss(pixel, padded, label, weights[label]);
        for (int64_t t = 0; t < across.count; ++t)
          AddTimes(slope + left + t * padded, across.values[t * new_width + c], pixel, padded);
      }
      for (int64_t c = 0; c < width; ++c)
        std::copy_n(slope + c * padded, classes, flat + c * classes);
      line_losses[r] = sum;
      float *const to = own.values.data() + (low(r) - own.first) * line_size;
      for (int64_t t = 0; t < down.count; ++t)
        AddTimes(to + t * line_size, down.values[t * new_height + y], flat, line_size);
    }
  });
  double sum = 0;
  for (float value : line_losses) sum += value;
  const double share = 1.0 / (static_cast<double>(lines) * new_width);
  loss[0] = static_cast<float>(sum * share);
  Rows(labels.dim(0) * height, line_size, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      float *const to = gradient + r * line_size;
      std::fill(to, to + line_size, 0.0f);
      for (const GradientRows &part : found)
        if (r >= part.first && r < part.last)
          AddTimes(to, static_cast<float>(share), part.values.data() + (r - part.first) * line_size,
                   line_size);
    }
  });
}
