// Sums over rows that lose no digits and do not depend on which thread took which row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"

namespace mindvit {

constexpr int64_t kBlock =
    64;  // rows whose sum is taken by itself, so that long sums lose no digits

// total[columns] += sums over the rows from `first` to before `last`; add(row, sums) adds a row's
template <typename Add>
void AddRows(int64_t first, int64_t last, int64_t block, int64_t columns, float *total,
             const Add &add) {
  std::vector<float> sums(columns);
  for (int64_t start = first; start < last; start += block) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t row = start; row < std::min(last, start + block); ++row) add(row, sums.data());
    for (int64_t c = 0; c < columns; ++c) total[c] += sums[c];
  }
}

// Sums that threads gather each in a line of its own
struct PartialSums {
  int parts;
  int64_t columns;
  std::vector<float> values;
  PartialSums(int parts_, int64_t columns_)
      : parts(parts_), columns(columns_), values(parts * columns, 0.0f) {}

  float *of(int part) { return values.data() + part * columns; }

  // added up in the threads' order
  std::vector<float> Sums() const {
    std::vector<float> sums(columns);
    for (int64_t c = 0; c < columns; ++c) {
      double sum = 0;
      for (int part = 0; part < parts; ++part) sum += values[part * columns + c];
      sums[c] = static_cast<float>(sum);
    }
    return sums;
  }
};

// Sums over rows of `width` values
template <typename Add>
std::vector<float> SumRows(int64_t rows, int64_t width, int64_t block, int64_t columns,
                           const Add &add) {
  PartialSums lines(PartsFor(rows * width, rows), columns);
  Rows(rows, width, [&](int64_t first, int64_t last, int part) {
    AddRows(first, last, block, columns, lines.of(part), add);
  });
  return lines.Sums();
}

}  // namespace mindvit
