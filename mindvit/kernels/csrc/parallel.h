// Threads that share out a kernel's rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

namespace mindvit {

constexpr int64_t kGrain = 1 << 14;  // values below which a second thread costs more than it saves

// The calling thread and its helpers
int Threads();

// Whether the kernel that the calling thread is at rounds operands of products to bfloat16
inline bool &InBFloat16() {
  thread_local bool chosen = false;
  return chosen;
}

// body(part, parts) for part in [0, parts), on several threads
void RunParts(int parts, const std::function<void(int, int)> &body);

inline int PartsFor(int64_t values, int64_t rows) {
  return static_cast<int>(
      std::max<int64_t>(1, std::min<int64_t>({Threads(), values / kGrain, rows})));
}

// body(first row, row after the last, part), the rows shared out among threads; `width` values a
// row
template <typename Body>
void Rows(int64_t rows, int64_t width, const Body &body) {
  RunParts(PartsFor(rows * width, rows), [&](int part, int parts) {
    body(rows * part / parts, rows * (part + 1) / parts, part);
  });
}

constexpr int64_t kTile = 768;  // rows, about, that are multiplied at once: what they become is
                                // still near when the next operation takes it
constexpr int64_t kBFloat16Tile = 128;  // products are so fast that it has to be nearer
constexpr int64_t kBFloat16Rows = 32;   // that these products take at once

// body(first row, number of rows, part) for tiles of rows, shared out among threads
template <typename Body>
void Tiles(int64_t rows, int64_t width, const Body &body) {
  Rows(rows, width, [&](int64_t first, int64_t last, int part) {
    const int64_t tile = InBFloat16() ? kBFloat16Tile : kTile,
                  unit = InBFloat16() ? kBFloat16Rows : 1, all = last - first,
                  tiles = std::max<int64_t>(1, (all + tile / 2) / tile),
                  units = (all + unit - 1) / unit;
    // about of one size: a small rest would be slow
    const auto edge = [=](int64_t i) { return std::min(all, units * i / tiles * unit); };
    for (int64_t i = 0; i < tiles; ++i) body(first + edge(i), edge(i + 1) - edge(i), part);
  });
}

// `values` numbers of the calling thread's own; the next call for the place takes them back
inline float *Scratch(int place, int64_t values) {
  thread_local std::vector<float> memory[4];
  if (static_cast<int64_t>(memory[place].size()) < values) memory[place].resize(values);
  return memory[place].data();
}

}  // namespace mindvit
