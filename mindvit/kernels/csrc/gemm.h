// The framework's own matrix product, and products with weights: x (..., I), weight (O, I), bias
// (O,) -> y (..., O).
#pragma once

#include <cstdint>

namespace mindvit {

using Gemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                     const float *, int64_t, float, float *, int64_t);

// oneDNN's product of row-major matrices (see dnnl_sgemm); null where this process has not loaded
// it
Gemm gemm();

struct ProductSizes {
  int64_t rows, inputs, outputs;
};

// y = x W^T + bias
void Product(const float *x, const float *weight, const float *bias, const ProductSizes &size,
             float *y);

// dx = dy W
void InputGrad(const float *weight, const float *dy, const ProductSizes &size, float *dx);

// dweight = dy^T x, dbias = the sum of dy over rows (null: the caller has that already)
void WeightGrad(const float *x, const float *dy, const ProductSizes &size, float *dweight,
                float *dbias);

}  // namespace mindvit
