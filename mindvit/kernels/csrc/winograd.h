// Convolutions 3x3 with stride 1 and padding 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin
// and Gray 2015, arXiv 1509.09308, section 4.1): 16 products where the kernel's places are 36. Maps
// are cut into tiles of 2x2 pixels; what lies under the kernel at a tile, 4x4 pixels, and the
// weights become 16 numbers each, which are multiplied place by place, as 16 matrix products over
// channels. The factors are 1 and 1/2, so that little more is rounded than in a plain sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv.h"
#include "gemm.h"
#include "parallel.h"

namespace mindvit {

// The tiles of maps, image by image and row by row
struct WinogradTiles {
  static constexpr int64_t kPlaces = 16;
  ImageShape of;
  explicit WinogradTiles(const ImageShape &shape) : of(shape) {}
  int64_t down() const { return (of.height + 1) / 2; }
  int64_t across() const { return (of.width + 1) / 2; }
  int64_t count() const { return of.batch * down() * across(); }

  // `side` x `side` pixels of maps `x`, from `before` above and left of a tile on; `zeros` beyond
  // the border
  void Pixels(const float *x, int64_t channels, int64_t tile, int64_t side, int64_t before,
              const float *zeros, const float **pixels) const {
    const int64_t left = tile % across() * 2 - before, row = tile / across(),
                  top = row % down() * 2 - before, image = row / down();
    for (int64_t i = 0; i < side * side; ++i) {
      const int64_t y = top + i / side, c = left + i % side;
      const bool inside = y >= 0 && y < of.height && c >= 0 && c < of.width;
      pixels[i] = inside ? x + ((image * of.height + y) * of.width + c) * channels : zeros;
    }
  }
};

// y (B, H, W, outputs) = x under the kernel, plus bias where there is one. weight (O, I, 3, 3);
// flipped: x are gradients of outputs, y those of inputs.
void WinogradConvolve(const float *x, const ImageShape &in, const float *weight, const float *bias,
                      bool flipped, int64_t outputs, float *y);

// dweight (O, I, 3, 3) of inputs x and gradients dy
void WinogradWeightGrad(const float *x, const ImageShape &in, const float *dy, int64_t outputs,
                        float *dweight);

}  // namespace mindvit
