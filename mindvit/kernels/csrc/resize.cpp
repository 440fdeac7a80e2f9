// Resizing by products with matrices that have few values that are not zero.

#include "resize.h"

#include <algorithm>

#include "kernel.h"
#include "parallel.h"

using namespace mindvit;

// x (B, C, H, W), rows (H', H), columns (W', W), matrices with few values that are not zero -> rows
// x columns^T (B, C, H', W')
KERNEL(Resize) {
  const Input x = args.in(), rows = args.in(), columns = args.in();
  const Output y = args.out();
  const int64_t planes = x.dim(0) * x.dim(1), height = x.dim(2), width = x.dim(3),
                new_height = rows.dim(0), new_width = columns.dim(0);
  const Band down(rows, new_height, height), across(columns, new_width, width);
  Rows(planes * new_height, new_width * (down.count + across.count),
       [&](int64_t first, int64_t last, int) {
         float *line = Scratch(0, width);
         const int32_t *begin = across.first.data();
         for (int64_t r = first; r < last; ++r) {
           const int64_t out = r % new_height;
           const float *from = x + (r / new_height * height + down.first[out]) * width;
           std::fill(line, line + width, 0.0f);
           for (int64_t t = 0; t < down.count; ++t) {
             const float value = down.values[t * new_height + out];
#pragma omp simd
             for (int64_t c = 0; c < width; ++c) line[c] += value * from[t * width + c];
           }
           float *to = y + r * new_width;
           std::fill(to, to + new_width, 0.0f);
           for (int64_t t = 0; t < across.count; ++t) {
             const float *value = across.values.data() + t * new_width;
#pragma omp simd
             for (int64_t c = 0; c < new_width; ++c) to[c] += value[c] * line[begin[c] + t];
           }
         }
       });
}

// the same of maps: x (B, H, W, C), rows (H', H), columns (W', W), and both transposed, which the
// gradient takes -> (B, H', W', C)
KERNEL(ResizeMaps) {
  const Input x = args.in(), rows = args.in(), columns = args.in();
  args.in();
  args.in();
  const Output y = args.out();
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3), new_height = rows.dim(0),
                new_width = columns.dim(0), line_size = width * channels;
  const Band down(rows, new_height, height), across(columns, new_width, width);
  Rows(x.dim(0) * new_height, down.count * line_size + across.count * new_width * channels,
       [&](int64_t first, int64_t last, int) {
         float *line = Scratch(0, line_size);
         for (int64_t r = first; r < last; ++r) {
           const int64_t out = r % new_height;
           const float *from = x + (r / new_height * height + down.first[out]) * line_size;
           WeighedRows(from, line_size, down, out, new_height, line_size, line);
           for (int64_t c = 0; c < new_width; ++c)
             WeighedRows(line + across.first[c] * channels, channels, across, c, new_width,
                         channels, y + (r * new_width + c) * channels);
         }
       });
}
