// Matrices that resize an axis: products that skip their zeros.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mindvit {

// the values of a row that are not zero, as many for each row: where they begin, and what they are,
// the first ones of all rows, the second ones, ...
struct Band {
  int64_t count = 1;
  std::vector<int32_t> first;
  std::vector<float> values;
  Band(const float *matrix, int64_t rows, int64_t columns) : first(rows) {
    for (int64_t r = 0; r < rows; ++r) {
      const float *row = matrix + r * columns;
      const auto used = [](float value) { return value != 0.0f; };
      const int64_t begin = std::find_if(row, row + columns, used) - row;
      int64_t end = columns;
      while (end > begin + 1 && row[end - 1] == 0.0f) --end;
      first[r] = static_cast<int32_t>(std::min(begin, columns - 1));
      count = std::max(count, end - first[r]);
    }
    values.resize(count * rows);
    for (int64_t r = 0; r < rows; ++r) {
      first[r] = std::min(first[r], static_cast<int32_t>(columns - count));
      for (int64_t t = 0; t < count; ++t) values[t * rows + r] = matrix[r * columns + first[r] + t];
    }
  }
};

// to = the sum of the rows of `from`, `stride` values apart, by the band's values for row `out` of
// `outputs`
inline void WeighedRows(const float *from, int64_t stride, const Band &band, int64_t out,
                        int64_t outputs, int64_t values, float *to) {
  const float first = band.values[out];
#pragma omp simd
  for (int64_t i = 0; i < values; ++i) to[i] = first * from[i];
  for (int64_t t = 1; t < band.count; ++t) {
    const float value = band.values[t * outputs + out];
    if (value == 0.0f) continue;
    const float *row = from + t * stride;
#pragma omp simd
    for (int64_t i = 0; i < values; ++i) to[i] += value * row[i];
  }
}

}  // namespace mindvit
