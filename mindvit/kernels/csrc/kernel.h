// How MindSpore calls a kernel (ops.Custom, func_type="aot"): by its name, with the inputs and then
// the outputs, all contiguous, and float32 where nothing else is said. A kernel takes them in that
// order and gives each a name. A matrix is rows x channels, channels innermost; images are B x H x
// W x C. Loops over channels are what the compiler vectorizes.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace mindvit {

// A tensor. T: const float for one that is read, float for one that is written.
template <typename T>
struct Tensor {
  T *data;
  int ndim;
  const int64_t *shape;

  operator T *() const { return data; }
  // The length of an axis; -1 is the last one
  int64_t dim(int axis) const { return shape[axis < 0 ? ndim + axis : axis]; }
  int64_t size() const {
    int64_t count = 1;
    for (int i = 0; i < ndim; ++i) count *= shape[i];
    return count;
  }
};

using Input = Tensor<const float>;
using Output = Tensor<float>;

// What a kernel was called with, one tensor after the other
class Args {
 public:
  Args(int count, void **params, const int *ndims, int64_t **shapes)
      : count_(count), params_(params), ndims_(ndims), shapes_(shapes) {}

  Input in() { return next<const float>(); }
  Output out() { return next<float>(); }
  // An input that changes where it lies
  Output changed() { return next<float>(); }

  template <typename T>
  Tensor<T> next() {
    const int i = next_++;
    return {static_cast<T *>(params_[i]), ndims_[i], shapes_[i]};
  }

  // How many are not taken yet
  int left() const { return count_ - next_; }

 private:
  const int count_;
  void **const params_;
  const int *const ndims_;
  int64_t **const shapes_;
  int next_ = 0;
};

}  // namespace mindvit

// KERNEL(Name) { ... } defines a kernel of that name; its Args are `args`. One that was called with
// more or fewer tensors than it takes fails. PRODUCTS_KERNEL(Name) defines NameBFloat16 beside it:
// the same with operands of products rounded to bfloat16 (gemm.h).
#define EXPORT_KERNEL(name, exported, half)                                                    \
  extern "C" __attribute__((visibility("default"))) int exported(                              \
      int count, void **params, int *ndims, int64_t **shapes, const char **, void *, void *) { \
    mindvit::Args args(count, params, ndims, shapes);                                          \
    mindvit::InBFloat16() = half;                                                              \
    name##Kernel(args);                                                                        \
    return args.left() == 0 ? 0 : 1;                                                           \
  }
#define KERNEL(name)                             \
  static void name##Kernel(mindvit::Args &args); \
  EXPORT_KERNEL(name, name, false)               \
  static void name##Kernel(mindvit::Args &args)
#define PRODUCTS_KERNEL(name)                    \
  static void name##Kernel(mindvit::Args &args); \
  EXPORT_KERNEL(name, name, false)               \
  EXPORT_KERNEL(name, name##BFloat16, true)      \
  static void name##Kernel(mindvit::Args &args)
