// The framework's own matrix product, and products with weights: x (..., I), weight (O, I), bias
// (O,) -> y (..., O).
#pragma once

#include <cstdint>
#include <memory>

#include "bfloat16.h"

namespace mindvit {

// A product of row-major matrices (see dnnl_sgemm): oneDNN's, or in a kernel that computes in
// bfloat16 ours (bfloat16.h)
Gemm gemm();

// Whether the calling thread's kernel computes products in bfloat16
bool UsesBFloat16();

// oneDNN's; null where this process has not loaded it
Gemm Float32Gemm();

// The right operand of several products, op(data) (k x n, see dnnl_sgemm), whose left ones have
// `rows` rows in all. In bfloat16 it is rounded and packed once for all of them. In float32 oneDNN
// takes longer for one that is transposed: where rows are many, it is copied. For none nothing is
// done.
class RightOperand {
 public:
  RightOperand(char transpose, int64_t k, int64_t n, const float *data, int64_t rows);

  // c (m x n) = a (m x k) op(data)
  void Times(int64_t m, const float *a, float *c) const;
  // the same of what is rounded already, in bfloat16
  void Times(int64_t m, const Half *a, float *c) const { packed_->Times(m, a, c); }

 private:
  const int64_t k_, n_;
  char transpose_;
  const float *data_;
  int64_t stride_;
  std::unique_ptr<float[]> copy_;        // null where data is taken as it is
  std::unique_ptr<PackedRight> packed_;  // null in float32
};

struct ProductSizes {
  int64_t rows, inputs, outputs;
};

// Whether threads better share out a product's columns than its rows: each has weights of its own
// then, instead of all of them for a few rows. Not so in bfloat16, where they are packed once.
bool FewRows(const ProductSizes &size);

// y = x W^T + bias, or without one (null)
void Product(const float *x, const float *weight, const float *bias, const ProductSizes &size,
             float *y);

// dx = dy W
void InputGrad(const float *weight, const float *dy, const ProductSizes &size, float *dx);

// dweight = dy^T x, dbias = the sum of dy over rows (null: the caller has that already)
void WeightGrad(const float *x, const float *dy, const ProductSizes &size, float *dweight,
                float *dbias);
inline void WeightGrad(const HalfRows &x, const HalfRows &dy, const ProductSizes &size,
                       float *dweight, float *) {
  WeightGradOfHalves(x, dy, size.rows, size.inputs, size.outputs, dweight);
}

}  // namespace mindvit
