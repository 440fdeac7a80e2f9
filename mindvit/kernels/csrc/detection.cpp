// What detectors need: suppression of boxes that overlap, and boxes' maps.

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernel.h"
#include "parallel.h"

using namespace mindvit;

namespace {

// Places of the boxes that are kept, -1 after the last. boxes: x1, y1, x2, y2, the best first; a
// group below 0 is of a box that doesn't count.
void Suppress(const float *boxes, const float *groups, int64_t count, float threshold,
              int64_t limit, float *kept) {
  std::vector<float> side[5];  // coordinates and areas, one after the other for vectors
  for (auto &values : side) values.resize(count);
  for (int64_t i = 0; i < count; ++i) {
    for (int c = 0; c < 4; ++c) side[c][i] = boxes[4 * i + c];
    side[4][i] = (side[2][i] - side[0][i]) * (side[3][i] - side[1][i]);
  }
  const float *x1 = side[0].data(), *y1 = side[1].data(), *x2 = side[2].data(),
              *y2 = side[3].data(), *area = side[4].data();
  std::vector<int32_t> gone(count);
  for (int64_t i = 0; i < count; ++i) gone[i] = groups[i] < 0;
  int64_t found = 0;
  for (int64_t i = 0; i < count && found < limit; ++i) {
    if (gone[i]) continue;
    kept[found++] = static_cast<float>(i);
    const float left = x1[i], top = y1[i], right = x2[i], bottom = y2[i], own = area[i],
                group = groups[i];
    int32_t *lost = gone.data();
#pragma omp simd
    for (int64_t j = i + 1; j < count; ++j) {
      const float a = left > x1[j] ? left : x1[j], b = top > y1[j] ? top : y1[j];
      const float c = right < x2[j] ? right : x2[j], d = bottom < y2[j] ? bottom : y2[j];
      const float width = c > a ? c - a : 0, height = d > b ? d - b : 0, overlap = width * height;
      // of boxes without area the quotient is no number, which is not above any
      lost[j] |= (overlap / (own + area[j] - overlap) > threshold) & (groups[j] == group);
    }
  }
  std::fill(kept + found, kept + limit, -1.0f);
}

// How much each place of an axis is in each cell of a box's grid: places from first[cell] on
struct Axis {
  std::vector<int64_t> first, count;
  std::vector<std::vector<float>> weights;

  Axis(float start, float length, int64_t cells, int64_t places, int64_t ratio)
      : first(cells), count(cells), weights(cells) {
    const float cell = length / cells;
    const int64_t samples = ratio > 0 ? ratio : static_cast<int64_t>(std::ceil(cell));
    for (int64_t p = 0; p < cells; ++p) {
      int64_t low = places, high = -1;  // of the places with a sample
      for (int64_t pass = 0; pass < 2; ++pass) {
        if (pass == 1) {
          count[p] = std::max<int64_t>(0, high - low + 1);
          first[p] = count[p] > 0 ? low : 0;
          weights[p].assign(count[p], 0.0f);
        }
        for (int64_t i = 0; i < samples; ++i) {
          float at = start + p * cell + (i + 0.5f) * cell / samples;
          if (at < -1.0f || at > places) continue;
          at = std::min(std::max(at, 0.0f), static_cast<float>(places - 1));
          const int64_t below = static_cast<int64_t>(at), above = std::min(below + 1, places - 1);
          if (pass == 0) {
            low = std::min(low, below);
            high = std::max(high, above);
          } else {
            weights[p][below - low] += (1.0f - (at - below)) / samples;
            weights[p][above - low] += (at - below) / samples;
          }
        }
      }
    }
  }
};

struct Level {
  int64_t height, width;
  float stride;
};

// body(row of the map, weight) of the cell (p, q): the places that it is a mean of, by offset / C
template <typename Body>
void Places(const Axis &rows, const Axis &columns, int64_t p, int64_t q, int64_t width,
            const Body &body) {
  for (int64_t i = 0; i < rows.count[p]; ++i)
    for (int64_t j = 0; j < columns.count[q]; ++j)
      body((rows.first[p] + i) * width + columns.first[q] + j,
           rows.weights[p][i] * columns.weights[q][j]);
}

// body(box, its level, rows, columns) for boxes from `begin` to `end`
template <typename Body>
void Boxes(const float *boxes, const float *levels, const std::vector<Level> &pyramid, int64_t size,
           int64_t ratio, int64_t begin, int64_t end, const Body &body) {
  for (int64_t k = begin; k < end; ++k) {
    const int64_t level = static_cast<int64_t>(levels[k]);
    if (level < 0 || level >= static_cast<int64_t>(pyramid.size())) continue;
    const Level &map = pyramid[level];
    float at[4];
    for (int c = 0; c < 4; ++c) at[c] = boxes[4 * k + c] / map.stride - 0.5f;
    body(k, level, Axis(at[1], at[3] - at[1], size, map.height, ratio),
         Axis(at[0], at[2] - at[0], size, map.width, ratio));
  }
}

std::vector<Level> Pyramid(const std::vector<Input> &maps, const Input &strides) {
  std::vector<Level> pyramid;
  for (size_t i = 0; i < maps.size(); ++i)
    pyramid.push_back({maps[i].dim(1), maps[i].dim(2), strides[i]});
  return pyramid;
}

}  // namespace

// boxes (B, M, 4), groups (B, M), threshold (1,) -> places (B, limit)
KERNEL(NMS) {
  const Input boxes = args.in(), groups = args.in(), threshold = args.in();
  const Output kept = args.out();
  const int64_t count = boxes.dim(1), limit = kept.dim(1);
  Rows(boxes.dim(0), count * count, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b)
      Suppress(boxes + b * count * 4, groups + b * count, count, threshold[0], limit,
               kept + b * limit);
  });
}

// boxes (B, R, 4), levels (B, R), strides (L,), ratio (1,), L maps (B, H, W, C) -> (B R, size,
// size, C)
KERNEL(RoIAlign) {
  const Input boxes = args.in(), levels = args.in(), strides = args.in(), ratio = args.in();
  std::vector<Input> maps;
  for (int64_t i = 0; i < strides.dim(0); ++i) maps.push_back(args.in());
  const Output out = args.out();
  const std::vector<Level> pyramid = Pyramid(maps, strides);
  const int64_t size = out.dim(1), channels = out.dim(3), all = boxes.dim(0) * boxes.dim(1);
  std::fill(out + 0, out + out.size(), 0.0f);
  Rows(all, size * size * channels, [&](int64_t first, int64_t last, int) {
    const auto box = [&](int64_t k, int64_t level, const Axis &rows, const Axis &columns) {
      const int64_t width = pyramid[level].width;
      const float *map = maps[level] + k / boxes.dim(1) * pyramid[level].height * width * channels;
      for (int64_t p = 0; p < size; ++p)
        for (int64_t q = 0; q < size; ++q) {
          float *cell = out + ((k * size + p) * size + q) * channels;
          Places(rows, columns, p, q, width, [&](int64_t place, float weight) {
            const float *from = map + place * channels;
#pragma omp simd
            for (int64_t c = 0; c < channels; ++c) cell[c] += weight * from[c];
          });
        }
    };
    Boxes(boxes, levels, pyramid, size, static_cast<int64_t>(ratio[0]), first, last, box);
  });
}

// boxes, levels, strides, ratio and maps as above, gradient of the outputs -> of the maps. Threads
// share out channels, so that sums don't depend on their number.
KERNEL(RoIAlignGrad) {
  const Input boxes = args.in(), levels = args.in(), strides = args.in(), ratio = args.in();
  std::vector<Input> maps;
  for (int64_t i = 0; i < strides.dim(0); ++i) maps.push_back(args.in());
  const Input gradient = args.in();
  std::vector<Output> to;
  for (size_t i = 0; i < maps.size(); ++i) {
    to.push_back(args.out());
    std::fill(to[i] + 0, to[i] + to[i].size(), 0.0f);
  }
  const std::vector<Level> pyramid = Pyramid(maps, strides);
  const int64_t size = gradient.dim(1), channels = gradient.dim(3),
                all = boxes.dim(0) * boxes.dim(1);
  const int64_t lanes = (channels + 15) / 16;
  Rows(lanes, all * size * size * 16, [&](int64_t first, int64_t last, int) {
    const int64_t begin = first * 16, end = std::min(channels, last * 16);
    const auto box = [&](int64_t k, int64_t level, const Axis &rows, const Axis &columns) {
      const int64_t width = pyramid[level].width;
      float *map = to[level] + k / boxes.dim(1) * pyramid[level].height * width * channels;
      for (int64_t p = 0; p < size; ++p)
        for (int64_t q = 0; q < size; ++q) {
          const float *cell = gradient + ((k * size + p) * size + q) * channels;
          Places(rows, columns, p, q, width, [&](int64_t place, float weight) {
            float *at = map + place * channels;
#pragma omp simd
            for (int64_t c = begin; c < end; ++c) at[c] += weight * cell[c];
          });
        }
    };
    Boxes(boxes, levels, pyramid, size, static_cast<int64_t>(ratio[0]), 0, all, box);
  });
}

namespace {

// One function for all overlaps, so that equal boxes have equal ones
__attribute__((noinline)) void Overlaps(const float *boxes, const float *valid, int64_t first,
                                        int64_t last, const float *object, float *iou) {
  const float left = object[0], top = object[1], right = object[2], bottom = object[3];
  const float own = (right - left) * (bottom - top);
#pragma omp simd
  for (int64_t i = first; i < last; ++i) {
    const float *box = boxes + 4 * i;
    const float a = left > box[0] ? left : box[0], b = top > box[1] ? top : box[1];
    const float c = right < box[2] ? right : box[2], d = bottom < box[3] ? bottom : box[3];
    const float width = c > a ? c - a : 0, height = d > b ? d - b : 0, overlap = width * height;
    const float all = own + (box[2] - box[0]) * (box[3] - box[1]) - overlap;
    iou[i - first] = valid[i] > 0 ? overlap / (all > 1e-6f ? all : 1e-6f) : -1.0f;
  }
}

}  // namespace

// boxes (B, N, 4), valid (B, N), objects (B, G, 4), real (B, G), limits (3,): positive, negative,
// low quality, below 0 for none -> (B, N): -1 ignored, 0 background, k the k-th object
KERNEL(AssignBoxes) {
  const Input boxes = args.in(), valid = args.in(), objects = args.in(), real = args.in(),
              limits = args.in();
  const Output assigned = args.out();
  constexpr int64_t kBlock = 1024;  // boxes whose overlaps are near when the next object takes them
  const int64_t count = boxes.dim(1), most = objects.dim(1);
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  const int parts = PartsFor(count * most, blocks);
  for (int64_t b = 0; b < boxes.dim(0); ++b) {
    const float *box = boxes + b * count * 4, *counts = valid + b * count,
                *object = objects + b * most * 4, *there = real + b * most;
    std::vector<std::vector<float>> best(parts, std::vector<float>(most, -1.0f));
    RunParts(parts, [&](int part, int) {
      float iou[kBlock], largest[kBlock];
      for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        const int64_t first = block * kBlock, last = std::min(count, first + kBlock);
        std::fill(largest, largest + kBlock, -1.0f);
        float *to = assigned + b * count + first;
        std::fill(to, to + (last - first), -1.0f);
        for (int64_t g = 0; g < most; ++g) {
          if (there[g] <= 0) continue;
          Overlaps(box, counts, first, last, object + 4 * g, iou);
          for (int64_t i = 0; i < last - first; ++i) {
            if (iou[i] > largest[i]) {
              largest[i] = iou[i];
              to[i] = static_cast<float>(g + 1);
            }
            best[part][g] = std::max(best[part][g], iou[i]);
          }
        }
        for (int64_t i = 0; i < last - first; ++i) {
          if (largest[i] < limits[0]) to[i] = largest[i] < limits[1] ? 0.0f : -1.0f;
          if (counts[first + i] <= 0) to[i] = -1.0f;
        }
      }
    });
    if (limits[2] < 0) continue;
    for (int part = 1; part < parts; ++part)
      for (int64_t g = 0; g < most; ++g) best[0][g] = std::max(best[0][g], best[part][g]);
    RunParts(parts, [&](int part, int) {
      float iou[kBlock];
      for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
        const int64_t first = block * kBlock, last = std::min(count, first + kBlock);
        for (int64_t g = 0; g < most; ++g) {
          if (there[g] <= 0 || best[0][g] < limits[2]) continue;
          Overlaps(box, counts, first, last, object + 4 * g, iou);
          for (int64_t i = 0; i < last - first; ++i)
            if (iou[i] == best[0][g]) assigned[b * count + first + i] = static_cast<float>(g + 1);
        }
      }
    });
  }
}

// boxes (B, K, 4), objects (B, K), masks (B, G, H, W / 8) of eight pixels a byte -> the share of
// each cell that is the object's, (B K, size, size)
KERNEL(CutMasks) {
  const Input boxes = args.in(), objects = args.in();
  const Tensor<const uint8_t> masks = args.next<const uint8_t>();
  const Output out = args.out();
  const int64_t size = out.dim(1), height = masks.dim(2), bytes = masks.dim(3);
  Rows(out.dim(0), 4 * size * size * size, [&](int64_t first, int64_t last, int) {
    for (int64_t k = first; k < last; ++k) {
      const float *box = boxes + 4 * k;
      const Axis rows(box[1] - 0.5f, box[3] - box[1], size, height, 0),
          columns(box[0] - 0.5f, box[2] - box[0], size, 8 * bytes, 0);
      const int64_t image = k / boxes.dim(1), object = static_cast<int64_t>(objects[k]);
      const uint8_t *mask = masks + (image * masks.dim(1) + object) * height * bytes;
      for (int64_t p = 0; p < size; ++p)
        for (int64_t q = 0; q < size; ++q) {
          float share = 0;
          for (int64_t i = 0; i < rows.count[p]; ++i) {
            const uint8_t *row = mask + (rows.first[p] + i) * bytes;
            float line = 0;
            for (int64_t j = 0; j < columns.count[q]; ++j) {
              const int64_t x = columns.first[q] + j;
              if (row[x / 8] >> (7 - x % 8) & 1) line += columns.weights[q][j];
            }
            share += rows.weights[p][i] * line;
          }
          out[(k * size + p) * size + q] = share;
        }
    }
  });
}
