// Kernels for CPUs where the framework's stay far from what the machine allows; each has its section below.
//
// MindSpore calls them by name (ops.Custom, func_type="aot"): params holds the inputs, then the outputs; all are contiguous, and float32 where
// nothing else is said.
// A matrix is rows x channels, channels innermost; pictures are B x H x W x C. Loops over channels are what the compiler vectorises.

#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

// ---- threads ----

constexpr int64_t kGrain = 1 << 14;  // values below which a second thread costs more than it saves

int Cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// A helper thread a core beyond the caller's. One job at a time: who comes while it is busy works alone.
// Kernels follow each other within some 50 us, and waking a sleeping thread takes as long: both sides stay awake for a while before they sleep.
class Pool {
 public:
  static Pool &Get() {
    static Pool *pool = new Pool();  // never destroyed: threads outlive static destructors
    return *pool;
  }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // body(part, parts) for part in [0, parts), on several threads
  void Run(int parts, const std::function<void(int, int)> &body) {
    const bool alone = parts <= 1 || helpers_.empty() || getpid() != process_;  // a forked process has none of its parent's threads
    std::unique_lock<std::mutex> turn = alone ? std::unique_lock<std::mutex>() : std::unique_lock<std::mutex>(turn_, std::try_to_lock);
    if (!turn.owns_lock()) {
      for (int part = 0; part < parts; ++part) body(part, parts);
      return;
    }
    bool sleeping;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      parts_ = parts;
      next_ = 0;
      left_ = parts;
      sleeping = sleeping_ > 0;
      ++job_;
    }
    if (sleeping) start_.notify_all();
    Work();
    const auto finished = [this] { return left_ == 0 && working_ == 0; };
    StayAwake(finished);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
    body_ = nullptr;
  }

 private:
  static constexpr std::chrono::microseconds kAwake{200};

  Pool() {
    for (int i = 1; i < Cores(); ++i) helpers_.emplace_back([this] { Loop(); });
  }

  // until `ready`, but not for long
  template <typename Ready>
  static void StayAwake(const Ready &ready) {
    const auto end = std::chrono::steady_clock::now() + kAwake;
    while (!ready() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  }

  void Work() {
    for (;;) {
      int part;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (body_ == nullptr || next_ >= parts_) return;
        part = next_++;
      }
      (*body_)(part, parts_);
      std::lock_guard<std::mutex> lock(mutex_);
      --left_;
    }
  }

  void Loop() {
    uint64_t seen = 0;
    const auto called = [&] { return job_ != seen; };
    for (;;) {
      StayAwake(called);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        start_.wait(lock, called);
        --sleeping_;
        seen = job_;
        ++working_;
      }
      Work();
      {
        std::lock_guard<std::mutex> lock(mutex_);
        --working_;
      }
      done_.notify_all();
    }
  }

  const pid_t process_ = getpid();
  std::vector<std::thread> helpers_;
  std::mutex turn_, mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int, int)> *body_ = nullptr;
  int parts_ = 0, next_ = 0, sleeping_ = 0;
  // changed under the mutex, and watched without it
  std::atomic<int> left_{0}, working_{0};
  std::atomic<uint64_t> job_{0};
};

int PartsFor(int64_t values, int64_t rows) {
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({Pool::Get().size(), values / kGrain, rows})));
}

// body(first row, row after the last, part), the rows shared out among threads; `width` values a row
template <typename Body>
void Rows(int64_t rows, int64_t width, const Body &body) {
  Pool::Get().Run(PartsFor(rows * width, rows), [&](int part, int parts) { body(rows * part / parts, rows * (part + 1) / parts, part); });
}

// ---- functions ----

// exp for values up to 88, within 2 ulp; 0 below -87. NaN stays NaN.
inline float Exp(float value) {
  const float x = value < -87.0f ? -87.0f : value;
  const float shift = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to an integer, which stands in its lowest bits
  const float shifted = x * 1.44269504f + shift, n = shifted - shift;
  const float r = x * 1.44269504f - n + x * 1.925963e-8f;  // of x log2(e): the first difference is exact with a fused product, then the constant's rest
  // 2^r for r in -0.5..0.5: our own minimax fit
  float p = 1.535335852e-4f;
  p = p * r + 1.339887567e-3f;
  p = p * r + 9.618437381e-3f;
  p = p * r + 5.550332467e-2f;
  p = p * r + 2.402264791e-1f;
  p = p * r + 6.931472029e-1f;
  p = p * r + 1.0f;
  uint32_t bits, power;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&power, &shifted, sizeof(power));
  bits += power << 23;  // times 2^n
  std::memcpy(&p, &bits, sizeof(p));
  return value < -87.0f ? 0.0f : p;
}

// Phi(x), the normal distribution function, given e = exp(-x^2 / 2). Phi(-|x|) = e t P(t) with t = 1 / (1 + |x| / sqrt 8), as Numerical Recipes transforms
// erfc; P is our own minimax fit for |x| up to 13.4, where e ends: fractional error 4e-8, and 2e-7 in float32, so the tail keeps its digits.
inline float Phi(float x, float e) {
  const float t = 1.0f / (1.0f + 0.35355339f * std::fabs(x));
  float p = -0.0294400609f;
  p = p * t + 0.141824844f;
  p = p * t - 0.242637374f;
  p = p * t + 0.137926279f;
  p = p * t - 0.0125452015f;
  p = p * t + 0.101016264f;
  p = p * t + 0.121635274f;
  p = p * t + 0.141176077f;
  p = p * t + 0.141043876f;
  const float tail = p * t * e;
  return x > 0 ? 1.0f - tail : tail;
}

inline float Gelu(float x) { return x * Phi(x, Exp(-0.5f * x * x)); }

inline float GeluSlope(float x) {
  const float e = Exp(-0.5f * x * x);
  return Phi(x, e) + x * e * 0.3989422804f;
}

int64_t Count(int ndim, const int64_t *shape) {
  int64_t count = 1;
  for (int i = 0; i < ndim; ++i) count *= shape[i];
  return count;
}

inline void AddTo(float *to, const float *from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

constexpr int64_t kBlock = 64;  // rows whose sum is taken by itself, so that long sums lose no digits

// total[columns] += sums over the rows from `first` to before `last`; add(row, sums) adds a row's
template <typename Add>
void AddRows(int64_t first, int64_t last, int64_t block, int64_t columns, float *total, const Add &add) {
  std::vector<float> sums(columns);
  for (int64_t start = first; start < last; start += block) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t row = start; row < std::min(last, start + block); ++row) add(row, sums.data());
    for (int64_t c = 0; c < columns; ++c) total[c] += sums[c];
  }
}

// Sums that threads gather each in a line of its own
struct Lines {
  int parts;
  int64_t columns;
  std::vector<float> values;
  Lines(int parts_, int64_t columns_) : parts(parts_), columns(columns_), values(parts * columns, 0.0f) {}

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
std::vector<float> SumRows(int64_t rows, int64_t width, int64_t block, int64_t columns, const Add &add) {
  Lines lines(PartsFor(rows * width, rows), columns);
  Rows(rows, width, [&](int64_t first, int64_t last, int part) { AddRows(first, last, block, columns, lines.of(part), add); });
  return lines.Sums();
}

// `values` numbers of the calling thread's own; the next call for the place takes them back
float *Scratch(int place, int64_t values) {
  thread_local std::vector<float> memory[2];
  if (static_cast<int64_t>(memory[place].size()) < values) memory[place].resize(values);
  return memory[place].data();
}

// softmax of a row, in place
inline void SoftmaxRow(float *row, int64_t width) {
  float most = row[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < width; ++i) most = row[i] > most ? row[i] : most;  // std::max, which returns a reference, would not become vectors
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) {
    row[i] = Exp(row[i] - most);
    sum += row[i];
  }
  const float share = 1.0f / sum;
  for (int64_t i = 0; i < width; ++i) row[i] *= share;
}

// its gradient: p * (dp - sum of p * dp over the row); dx may be dp
inline void SoftmaxRowGrad(const float *p, const float *dp, float *dx, int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += p[i] * dp[i];
#pragma omp simd
  for (int64_t i = 0; i < width; ++i) dx[i] = p[i] * (dp[i] - sum);
}

}  // namespace

#define KERNEL(name) extern "C" int name([[maybe_unused]] int count, void **params, int *ndims, int64_t **shapes, const char **, void *, void *)
#define IN(i) static_cast<const float *>(params[i])
#define OUT(i) static_cast<float *>(params[i])

// ---- products with weights: x (..., I), weight (O, I), bias (O,) -> y (..., O) ----

namespace {

using Gemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *, int64_t);

// The framework's own matrix product (oneDNN's, row-major), found among the libraries that this process has loaded.
Gemm FindGemm() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info *info, size_t, void *found) {
        if (std::strstr(info->dlpi_name, "libdnnl.so") != nullptr) *static_cast<std::string *>(found) = info->dlpi_name;
        return 0;
      },
      &path);
  void *library = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  return library == nullptr ? nullptr : reinterpret_cast<Gemm>(dlsym(library, "dnnl_sgemm"));
}

Gemm gemm() {
  static const Gemm found = FindGemm();
  return found;
}

constexpr int64_t kTile = 768;  // rows, about, that are multiplied at once: what they become is still near when the next operation takes it

// body(first row, number of rows, part) for tiles of rows, shared out among threads
template <typename Body>
void Tiles(int64_t rows, int64_t width, const Body &body) {
  Rows(rows, width, [&](int64_t first, int64_t last, int part) {
    const int64_t tiles = std::max<int64_t>(1, (last - first + kTile / 2) / kTile), all = last - first;  // of one size: a small rest would be slow
    for (int64_t i = 0; i < tiles; ++i) body(first + all * i / tiles, all * (i + 1) / tiles - all * i / tiles, part);
  });
}

struct Sizes {
  int64_t rows, inputs, outputs;
};

Sizes SizesOf(const int64_t *x, int ndim, const int64_t *weight) { return {Count(ndim, x) / weight[1], weight[1], weight[0]}; }

// y = x W^T + bias
void Product(const float *x, const float *weight, const float *bias, const Sizes &size, float *y) {
  const int64_t in = size.inputs, out = size.outputs;
  Tiles(size.rows, in * out, [=](int64_t first, int64_t rows, int) {
    gemm()('N', 'T', rows, out, in, 1.0f, x + first * in, in, weight, in, 0.0f, y + first * out, out);
    for (int64_t r = first; r < first + rows; ++r) AddTo(y + r * out, bias, out);
  });
}

// dweight = dy^T x, dbias = the sum of dy over rows (null: the caller has that already); threads share out the outputs
void WeightGrad(const float *x, const float *dy, const Sizes &size, float *dweight, float *dbias) {
  const int64_t in = size.inputs, out = size.outputs;
  Rows(out, in * size.rows, [=](int64_t first, int64_t last, int) {
    gemm()('T', 'N', last - first, in, size.rows, 1.0f, dy + first, out, x, in, 0.0f, dweight + first * in, in);
    if (dbias == nullptr) return;
    std::fill(dbias + first, dbias + last, 0.0f);
    AddRows(0, size.rows, kBlock, last - first, dbias + first, [=](int64_t r, float *sum) { AddTo(sum, dy + r * out + first, last - first); });
  });
}

}  // namespace

extern "C" int HasGemm() { return gemm() != nullptr; }

KERNEL(Linear) {
  Product(IN(0), IN(1), IN(2), SizesOf(shapes[0], ndims[0], shapes[1]), OUT(3));
  return 0;
}

// weight, dy -> dx
KERNEL(LinearInputGrad) {
  const Sizes size = SizesOf(shapes[2], ndims[2], shapes[0]);
  const int64_t in = size.inputs, out = size.outputs;
  const float *weight = IN(0), *dy = IN(1);
  float *dx = OUT(2);
  Rows(size.rows, in * out, [=](int64_t first, int64_t last, int) {
    gemm()('N', 'N', last - first, in, out, 1.0f, dy + first * out, out, weight, in, 0.0f, dx + first * in, in);
  });
  return 0;
}

// x, dy -> dweight, dbias
KERNEL(LinearWeightGrad) {
  WeightGrad(IN(0), IN(1), SizesOf(shapes[0], ndims[0], shapes[2]), OUT(2), OUT(3));
  return 0;
}

// ---- residual branches: x + keep gamma y; x, y (..., C), gamma (C,) or (1,), keep: a factor for each sample, (B,) ----

namespace {

struct Branch {
  int64_t rows, channels, rows_of_sample;
  std::vector<float> gamma;
  Branch(const int64_t *y, int ndim, const float *factors, int64_t given, int64_t samples)
      : rows(Count(ndim, y) / y[ndim - 1]), channels(y[ndim - 1]), rows_of_sample(rows / samples), gamma(channels) {
    for (int64_t c = 0; c < channels; ++c) gamma[c] = factors[given == 1 ? 0 : c];
  }
};

// write(place, keep gamma) for every value of the branch
template <typename Write>
void EachScaled(const Branch &branch, const float *keep, const Write &write) {
  const float *gamma = branch.gamma.data();
  const int64_t channels = branch.channels, each = branch.rows_of_sample;
  Rows(branch.rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float factor = keep[r / each];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) write(r * channels + c, factor * gamma[c]);
    }
  });
}

}  // namespace

// x, y -> x + y
KERNEL(Sum) {
  const float *x = IN(0), *y = IN(1);
  float *out = OUT(2);
  Rows(Count(ndims[0], shapes[0]), 1, [=](int64_t first, int64_t last, int) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) out[i] = x[i] + y[i];
  });
  return 0;
}

// x, y, gamma, keep -> x + keep gamma y
KERNEL(Residual) {
  const float *x = IN(0), *y = IN(1);
  float *out = OUT(4);
  EachScaled(Branch(shapes[1], ndims[1], IN(2), shapes[2][0], shapes[3][0]), IN(3), [=](int64_t i, float scale) { out[i] = x[i] + scale * y[i]; });
  return 0;
}

// gamma, keep, dout -> dy
KERNEL(ResidualGrad) {
  const float *d = IN(2);
  float *dy = OUT(3);
  EachScaled(Branch(shapes[2], ndims[2], IN(0), shapes[0][0], shapes[1][0]), IN(1), [=](int64_t i, float scale) { dy[i] = scale * d[i]; });
  return 0;
}

// y, gamma, keep, dout -> dgamma
KERNEL(ResidualGammaGrad) {
  const Branch branch(shapes[0], ndims[0], IN(1), shapes[1][0], shapes[2][0]);
  const float *y = IN(0), *keep = IN(2), *d = IN(3);
  float *dgamma = OUT(4);
  const int64_t channels = branch.channels, each = branch.rows_of_sample;
  const auto sums = SumRows(branch.rows, channels, kBlock, channels, [=](int64_t r, float *sum) {
    const float factor = keep[r / each];
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) sum[c] += factor * y[r * channels + c] * d[r * channels + c];
  });
  std::fill(dgamma, dgamma + shapes[4][0], 0.0f);
  for (int64_t c = 0; c < channels; ++c) dgamma[c % shapes[4][0]] += sums[c];
  return 0;
}

// ---- of all tensors of a network at once ----

namespace {

constexpr int64_t kPiece = 4096;

// values first .. first + count of the tensor with that number
struct Piece {
  int tensor;
  int64_t first, count;
};

std::vector<Piece> Pieces(int tensors, const int *ndims, int64_t **shapes) {
  std::vector<Piece> pieces;
  for (int i = 0; i < tensors; ++i) {
    const int64_t values = Count(ndims[i], shapes[i]);
    for (int64_t start = 0; start < values; start += kPiece) pieces.push_back({i, start, std::min(kPiece, values - start)});
  }
  return pieces;
}

}  // namespace

// any number of tensors -> the sum of all their squares (1,)
KERNEL(SquareSum) {
  const auto pieces = Pieces(count - 1, ndims, shapes);
  std::vector<double> sums(pieces.size());
  Rows(pieces.size(), kPiece, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const float *x = IN(pieces[i].tensor) + pieces[i].first;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < pieces[i].count; ++j) sum += x[j] * x[j];
      sums[i] = sum;
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  OUT(count - 1)[0] = static_cast<float>(total);
  return 0;
}

// n weights, n first moments, n second moments, n gradients, decay (n,), rate (n,), numbers (5,): rate, unit of decay, beta1, beta2, eps -> (1,)
// Weights and moments change where they lie: w -= lr (m / (sqrt(v) + eps) + unit decay w)
KERNEL(AdamW) {
  const int n = (count - 4) / 4;
  const float *decay = IN(4 * n), *rate = IN(4 * n + 1), *number = IN(4 * n + 2);
  const float beta1 = number[2], beta2 = number[3], eps = number[4];
  const auto pieces = Pieces(n, ndims, shapes);
  Rows(pieces.size(), kPiece * 4, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int tensor = pieces[i].tensor;
      float *w = OUT(tensor) + pieces[i].first, *m = OUT(n + tensor) + pieces[i].first, *v = OUT(2 * n + tensor) + pieces[i].first;
      const float *g = IN(3 * n + tensor) + pieces[i].first;
      const float lr = number[0] * rate[tensor], shrink = number[1] * decay[tensor];
#pragma omp simd
      for (int64_t j = 0; j < pieces[i].count; ++j) {
        m[j] += (1.0f - beta1) * (g[j] - m[j]);
        v[j] += (1.0f - beta2) * (g[j] * g[j] - v[j]);
        w[j] -= lr * (m[j] / (std::sqrt(v[j]) + eps) + shrink * w[j]);
      }
    }
  });
  OUT(count - 1)[0] = 1.0f;
  return 0;
}

// ---- GELU(x), any shape ----

KERNEL(GeluForward) {
  const float *x = IN(0);
  float *y = OUT(1);
  Rows(Count(ndims[0], shapes[0]), 4, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) y[i] = Gelu(x[i]);
  });
  return 0;
}

// x, dy -> dx
KERNEL(GeluGrad) {
  const float *x = IN(0), *dy = IN(1);
  float *dx = OUT(2);
  Rows(Count(ndims[0], shapes[0]), 4, [=](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) dx[i] = dy[i] * GeluSlope(x[i]);
  });
  return 0;
}

// ---- softmax over the last axis: x (..., N) -> y ----

KERNEL(SoftmaxForward) {
  const float *x = IN(0);
  float *y = OUT(1);
  const int64_t width = shapes[0][ndims[0] - 1], rows = Count(ndims[0], shapes[0]) / width;
  Rows(rows, width * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      std::copy(x + r * width, x + (r + 1) * width, y + r * width);
      SoftmaxRow(y + r * width, width);
    }
  });
  return 0;
}

// y, dy -> dx
KERNEL(SoftmaxGrad) {
  const float *y = IN(0), *dy = IN(1);
  float *dx = OUT(2);
  const int64_t width = shapes[0][ndims[0] - 1], rows = Count(ndims[0], shapes[0]) / width;
  Rows(rows, width, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) SoftmaxRowGrad(y + r * width, dy + r * width, dx + r * width, width);
  });
  return 0;
}

// ---- LayerNorm over the last axis: x (..., C), weight (C,), bias (C,), eps (1,) -> y, mean (M,), 1 / deviation (M,) ----

namespace {

struct Norm {
  const float *weight, *bias;
  float eps;
  int64_t channels;
};

void NormRow(const float *x, const Norm &norm, float *y, float *to_mean, float *to_inverse) {
  const float *weight = norm.weight, *bias = norm.bias;
  const int64_t channels = norm.channels;
  float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels; ++c) sum += x[c];
  const float mean = sum / channels;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < channels; ++c) squares += (x[c] - mean) * (x[c] - mean);
  const float inverse = 1.0f / std::sqrt(squares / channels + norm.eps);
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) y[c] = (x[c] - mean) * inverse * weight[c] + bias[c];
  *to_mean = mean;
  *to_inverse = inverse;
}

// dx = more + the gradient of x; adds to those of weight and bias. dx may be dy.
void NormRowGrad(const float *x, const float *weight, float mean, float inverse, const float *dy, const float *more, float *dx, float *dweight, float *dbias,
                 int64_t channels) {
  float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (int64_t c = 0; c < channels; ++c) {
    const float g = dy[c] * weight[c];
    sum += g;
    dot += g * (x[c] - mean);
  }
  sum /= channels;
  dot *= inverse / channels;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const float normal = (x[c] - mean) * inverse, d = dy[c];
    dweight[c] += d * normal;
    dbias[c] += d;
    dx[c] = (d * weight[c] - sum - normal * dot) * inverse + more[c];
  }
}

void NormRows(const float *x, const Norm &norm, int64_t rows, float *y, float *means, float *inverses) {
  const int64_t channels = norm.channels;
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) NormRow(x + r * channels, norm, y + r * channels, means + r, inverses + r);
  });
}

// dx = more + the gradient of x
void NormRowsGrad(const float *x, const float *weight, const float *means, const float *inverses, const float *dy, const float *more, int64_t rows,
                  int64_t channels, float *dx, float *dweight, float *dbias) {
  const auto sums = SumRows(rows, channels * 2, kBlock, 2 * channels, [=](int64_t r, float *sum) {
    NormRowGrad(x + r * channels, weight, means[r], inverses[r], dy + r * channels, more + r * channels, dx + r * channels, sum, sum + channels, channels);
  });
  std::copy(sums.begin(), sums.begin() + channels, dweight);
  std::copy(sums.begin() + channels, sums.end(), dbias);
}

}  // namespace

KERNEL(LayerNormForward) {
  const int64_t channels = shapes[1][0];
  NormRows(IN(0), {IN(1), IN(2), IN(3)[0], channels}, Count(ndims[0], shapes[0]) / channels, OUT(4), OUT(5), OUT(6));
  return 0;
}

// x, weight, mean, 1 / deviation, dy, more -> dx + more, dweight, dbias
KERNEL(LayerNormGrad) {
  const int64_t channels = shapes[1][0];
  NormRowsGrad(IN(0), IN(1), IN(2), IN(3), IN(4), IN(5), Count(ndims[0], shapes[0]) / channels, channels, OUT(6), OUT(7), OUT(8));
  return 0;
}

// ---- attention ----

namespace {

// One operand of attention: rows of tokens, `stride` values from token to token, heads beside each other.
struct Side {
  const float *data;
  int64_t tokens, stride;
  const float *at(int64_t batch, int64_t head, int64_t depth) const { return data + batch * tokens * stride + head * depth; }
};

struct Grad {
  float *data;
  int64_t tokens, stride;
  float *at(int64_t batch, int64_t head, int64_t depth) const { return data + batch * tokens * stride + head * depth; }
};

// weights = softmax(scale q k^T + bias), y = weights v; bias (groups, heads, M, N) or null: sample b of the batch has group b % groups;
// weights null: nobody asks for them
void Attend(const Side &q, const Side &k, const Side &v, const float *bias, int64_t groups, float scale, int64_t batch, int64_t heads, int64_t depth,
            float *weights, const Grad &y) {
  const int64_t m = q.tokens, n = k.tokens;
  Rows(batch * heads, m * n * 2, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      float *p = weights == nullptr ? Scratch(0, m * n) : weights + i * m * n;
      const float *add = bias == nullptr ? nullptr : bias + ((b % groups) * heads + h) * m * n;
      gemm()('N', 'T', m, n, depth, scale, q.at(b, h, depth), q.stride, k.at(b, h, depth), k.stride, 0.0f, p, n);
      for (int64_t r = 0; r < m; ++r) {
        if (add != nullptr)
          for (int64_t c = 0; c < n; ++c) p[r * n + c] += add[r * n + c];
        SoftmaxRow(p + r * n, n);
      }
      gemm()('N', 'N', m, depth, n, 1.0f, p, n, v.at(b, h, depth), v.stride, 0.0f, y.at(b, h, depth), y.stride);
    }
  });
}

void AttendGrad(const Side &q, const Side &k, const Side &v, const float *weights, const Side &dy, int64_t groups, float scale, int64_t batch,
                int64_t heads, int64_t depth, const Grad &dq, const Grad &dk, const Grad &dv, float *dbias) {
  const int64_t m = q.tokens, n = k.tokens;
  // a thread has whole (group, head) pairs: nobody else adds to its part of the bias
  Rows(groups * heads, batch / groups * m * n * 2, [&](int64_t first, int64_t last, int) {
    std::vector<float> scores(m * n);
    for (int64_t pair = first; pair < last; ++pair) {
      const int64_t h = pair % heads;
      float *add = dbias == nullptr ? nullptr : dbias + pair * m * n;
      if (add != nullptr) std::fill(add, add + m * n, 0.0f);
      for (int64_t b = pair / heads; b < batch; b += groups) {
        const float *p = weights + (b * heads + h) * m * n;
        float *d = scores.data();
        gemm()('T', 'N', n, depth, m, 1.0f, p, n, dy.at(b, h, depth), dy.stride, 0.0f, dv.at(b, h, depth), dv.stride);
        gemm()('N', 'T', m, n, depth, 1.0f, dy.at(b, h, depth), dy.stride, v.at(b, h, depth), v.stride, 0.0f, d, n);
        for (int64_t r = 0; r < m; ++r) SoftmaxRowGrad(p + r * n, d + r * n, d + r * n, n);
        if (add != nullptr)
          for (int64_t i = 0; i < m * n; ++i) add[i] += d[i];
        gemm()('N', 'N', m, depth, n, scale, d, n, k.at(b, h, depth), k.stride, 0.0f, dq.at(b, h, depth), dq.stride);
        gemm()('T', 'N', n, depth, m, scale, d, n, q.at(b, h, depth), q.stride, 0.0f, dk.at(b, h, depth), dk.stride);
      }
    }
  });
}

// Self-attention of qkv (B, N, 3C); weights (B, heads, N, N), null where nobody asks for them
struct SelfAttention {
  int64_t batch, tokens, channels, heads;
  float scale;
  float *weights;

  void Forward(const float *qkv, float *y) const {
    const int64_t width = 3 * channels;
    Attend({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, nullptr, 1, scale, batch, heads, channels / heads,
           weights, {y, tokens, channels});
  }

  void Backward(const float *qkv, const float *dy, float *d) const {
    const int64_t width = 3 * channels;
    AttendGrad({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, weights, {dy, tokens, channels}, batch, scale,
               batch, heads, channels / heads, {d, tokens, width}, {d + channels, tokens, width}, {d + 2 * channels, tokens, width}, nullptr);
  }
};

}  // namespace

// qkv (B, N, 3C): queries, keys, values, each C = heads x depth; scale (1,) -> y (B, N, C), weights (B, heads, N, N)
KERNEL(Attention) {
  SelfAttention{shapes[0][0], shapes[0][1], shapes[0][2] / 3, shapes[3][1], IN(1)[0], OUT(3)}.Forward(IN(0), OUT(2));
  return 0;
}

// qkv, scale, weights, dy -> dqkv
KERNEL(AttentionGrad) {
  SelfAttention{shapes[0][0], shapes[0][1], shapes[0][2] / 3, shapes[2][1], IN(1)[0], OUT(2)}.Backward(IN(0), IN(3), OUT(4));
  return 0;
}

// qkv, scale, bias (groups, heads, N, N) -> y, weights
KERNEL(BiasedAttention) {
  const int64_t batch = shapes[0][0], tokens = shapes[0][1], width = shapes[0][2], channels = width / 3, heads = shapes[4][1];
  const float *qkv = IN(0);
  Attend({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, IN(2), shapes[2][0], IN(1)[0], batch, heads,
         channels / heads, OUT(4), {OUT(3), tokens, channels});
  return 0;
}

// qkv, scale, bias, weights, dy -> dqkv, dbias
KERNEL(BiasedAttentionGrad) {
  const int64_t batch = shapes[0][0], tokens = shapes[0][1], width = shapes[0][2], channels = width / 3, heads = shapes[3][1];
  const float *qkv = IN(0);
  float *d = OUT(5);
  AttendGrad({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, IN(3), {IN(4), tokens, channels}, shapes[2][0],
             IN(1)[0], batch, heads, channels / heads, {d, tokens, width}, {d + channels, tokens, width}, {d + 2 * channels, tokens, width}, OUT(6));
  return 0;
}

// q (B, M, C), k and v (B, N, C), scale -> y (B, M, C), weights (B, heads, M, N)
KERNEL(MixedAttention) {
  const int64_t batch = shapes[0][0], m = shapes[0][1], n = shapes[1][1], channels = shapes[0][2], heads = shapes[5][1];
  Attend({IN(0), m, channels}, {IN(1), n, channels}, {IN(2), n, channels}, nullptr, 1, IN(3)[0], batch, heads, channels / heads, OUT(5),
         {OUT(4), m, channels});
  return 0;
}

// q, k, v, scale, weights, dy -> dq, dk, dv
KERNEL(MixedAttentionGrad) {
  const int64_t batch = shapes[0][0], m = shapes[0][1], n = shapes[1][1], channels = shapes[0][2], heads = shapes[4][1];
  AttendGrad({IN(0), m, channels}, {IN(1), n, channels}, {IN(2), n, channels}, IN(4), {IN(5), m, channels}, batch, IN(3)[0], batch, heads,
             channels / heads, {OUT(6), m, channels}, {OUT(7), n, channels}, {OUT(8), n, channels}, nullptr);
  return 0;
}

// ---- a class token's attention to itself and to patches ----

namespace {

// Each sample's queries (heads, C), its class token (C,), and its patches, `patches` rows of C after `skip` others
struct ClassQueries {
  int64_t batch, heads, channels, rows, skip, patches;

  // a (heads, C) times the class token and the patches -> (heads, 1 + patches)
  void Times(const float *a, const float *own, const float *y, float *to) const {
    gemm()('N', 'T', heads, patches, channels, 1.0f, a, channels, y, channels, 0.0f, to + 1, 1 + patches);
    for (int64_t h = 0; h < heads; ++h) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) sum += a[h * channels + c] * own[c];
      to[h * (1 + patches)] = sum;
    }
  }

  // a (heads, 1 + patches) times them -> (heads, C)
  void Mix(const float *a, const float *own, const float *y, float *to) const {
    gemm()('N', 'N', heads, channels, patches, 1.0f, a + 1, 1 + patches, y, channels, 0.0f, to, channels);
    for (int64_t h = 0; h < heads; ++h)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[h * channels + c] += a[h * (1 + patches)] * own[c];
  }

  // sample b of q (B, heads, C), class tokens (B, C), y (B, N, C) -> its weights (B, heads, 1 + patches), what its queries see (B, heads, C)
  void Forward(int64_t b, const float *q, const float *own, const float *y, float *weights, float *seen) const {
    const int64_t each = 1 + patches;
    const float *from = y + (b * rows + skip) * channels;
    float *p = weights + b * heads * each;
    Times(q + b * heads * channels, own + b * channels, from, p);
    for (int64_t h = 0; h < heads; ++h) SoftmaxRow(p + h * each, each);
    Mix(p, own + b * channels, from, seen + b * heads * channels);
  }

  // the gradients of sample b of them
  void Backward(int64_t b, const float *q, const float *own, const float *y, const float *weights, const float *dseen, float *dq, float *down,
                float *dy) const {
    const int64_t each = 1 + patches, c = channels;
    std::vector<float> slopes(heads * each);
    float *s = slopes.data(), *to = dy + (b * rows + skip) * c, *dcls = down + b * c;
    const float *from = y + (b * rows + skip) * c, *p = weights + b * heads * each, *d = dseen + b * heads * c, *query = q + b * heads * c;
    Times(d, own + b * c, from, s);
    for (int64_t h = 0; h < heads; ++h) SoftmaxRowGrad(p + h * each, s + h * each, s + h * each, each);
    Mix(s, own + b * c, from, dq + b * heads * c);
    std::fill(dy + b * rows * c, to, 0.0f);
    gemm()('T', 'N', patches, c, heads, 1.0f, p + 1, each, d, c, 0.0f, to, c);
    gemm()('T', 'N', patches, c, heads, 1.0f, s + 1, each, query, c, 1.0f, to, c);
    std::fill(dcls, dcls + c, 0.0f);
    for (int64_t h = 0; h < heads; ++h)
#pragma omp simd
      for (int64_t i = 0; i < c; ++i) dcls[i] += p[h * each] * d[h * c + i] + s[h * each] * query[h * c + i];
  }
};

ClassQueries ClassQueriesOf(const int64_t *q, const int64_t *y, const int64_t *weights) {
  const int64_t patches = weights[2] - 1;
  return {q[0], q[1], q[2], y[1], y[1] - patches, patches};
}

}  // namespace

// q (B, heads, C), class tokens (B, 1, C), y (B, N, C) -> what each query sees (B, heads, C), weights (B, heads, 1 + patches)
KERNEL(ClassQuery) {
  const ClassQueries size = ClassQueriesOf(shapes[0], shapes[2], shapes[4]);
  const float *q = IN(0), *own = IN(1), *y = IN(2);
  float *seen = OUT(3), *weights = OUT(4);
  Rows(size.batch, size.rows * size.channels * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) size.Forward(b, q, own, y, weights, seen);
  });
  return 0;
}

// q, class tokens, y, weights, dseen -> dq, the class tokens' gradient, dy
KERNEL(ClassQueryGrad) {
  const ClassQueries size = ClassQueriesOf(shapes[0], shapes[2], shapes[3]);
  const float *q = IN(0), *own = IN(1), *y = IN(2), *weights = IN(3), *dseen = IN(4);
  float *dq = OUT(5), *down = OUT(6), *dy = OUT(7);
  Rows(size.batch, size.rows * size.channels * 4, [=](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) size.Backward(b, q, own, y, weights, dseen, dq, down, dy);
  });
  return 0;
}

// ---- cross-covariance attention (XCiT) ----

namespace {

// 1 / max(length, eps) of each of `depth` columns of `tokens` rows, `stride` values apart
void Inverses(const float *x, int64_t tokens, int64_t stride, int64_t depth, float eps, float *out) {
  std::vector<float> squares(depth, 0.0f);
  AddRows(0, tokens, kBlock, depth, squares.data(), [=](int64_t t, float *sum) {
    for (int64_t c = 0; c < depth; ++c) sum[c] += x[t * stride + c] * x[t * stride + c];
  });
  for (int64_t c = 0; c < depth; ++c) out[c] = 1.0f / std::max(std::sqrt(squares[c]), eps);
}

// Cross-covariance attention's sizes, and what its gradient needs beside qkv: weights and products q^T k (B, heads, d, d), 1 / lengths (B, heads, 2, d)
struct Covariance {
  int64_t batch, tokens, channels, heads;
  const float *temperature;  // (heads,)
  float eps;
  float *weights, *products, *lengths;

  // qkv (B, N, 3C) -> y (B, N, C)
  void Forward(const float *qkv, float *y) const {
    const int64_t d = channels / heads, width = 3 * channels;
    Rows(batch * heads, tokens * d * 4, [=](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / heads, h = i % heads;
        const float *q = qkv + b * tokens * width + h * d, *k = q + channels, *v = k + channels;
        float *p = weights + i * d * d, *g = products + i * d * d, *inverse = lengths + i * 2 * d;
        Inverses(q, tokens, width, d, eps, inverse);
        Inverses(k, tokens, width, d, eps, inverse + d);
        gemm()('T', 'N', d, d, tokens, 1.0f, q, width, k, width, 0.0f, g, d);
        for (int64_t r = 0; r < d; ++r) {
          for (int64_t c = 0; c < d; ++c) p[r * d + c] = temperature[h] * inverse[r] * inverse[d + c] * g[r * d + c];
          SoftmaxRow(p + r * d, d);
        }
        gemm()('N', 'T', tokens, d, d, 1.0f, v, width, p, d, 0.0f, y + b * tokens * channels + h * d, channels);
      }
    });
  }

  // qkv, dy -> dqkv, dtemperature (heads,)
  void Backward(const float *qkv, const float *dy, float *dqkv, float *dtemperature) const {
    const int64_t d = channels / heads, width = 3 * channels;
    const float most = 1.0f / eps;
    std::vector<double> shares(batch * heads);
    double *share = shares.data();
    Rows(batch * heads, tokens * d * 8, [=](int64_t first, int64_t last, int) {
      std::vector<float> scratch(d * d), slopes(2 * d);
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / heads, h = i % heads;
        const float *q = qkv + b * tokens * width + h * d, *k = q + channels, *v = k + channels;
        float *dq = dqkv + b * tokens * width + h * d, *dk = dq + channels, *dv = dk + channels;
        const float *p = weights + i * d * d, *g = products + i * d * d, *inverse = lengths + i * 2 * d, *out = dy + b * tokens * channels + h * d;
        float *s = scratch.data();
        gemm()('N', 'N', tokens, d, d, 1.0f, out, channels, p, d, 0.0f, dv, width);
        gemm()('T', 'N', d, d, tokens, 1.0f, out, channels, v, width, 0.0f, s, d);
        std::fill(slopes.begin(), slopes.end(), 0.0f);
        double total = 0;
        for (int64_t r = 0; r < d; ++r) {
          SoftmaxRowGrad(p + r * d, s + r * d, s + r * d, d);
          for (int64_t c = 0; c < d; ++c) {
            const float score = inverse[r] * inverse[d + c] * g[r * d + c] * s[r * d + c];  // d loss / d temperature, this part
            total += score;
            slopes[r] += score;
            slopes[d + c] += score;
            s[r * d + c] *= temperature[h] * inverse[r] * inverse[d + c];
          }
        }
        share[i] = total;
        gemm()('N', 'T', tokens, d, d, 1.0f, k, width, s, d, 0.0f, dq, width);
        gemm()('N', 'N', tokens, d, d, 1.0f, q, width, s, d, 0.0f, dk, width);
        // a length's own gradient: d(1/l)/dx = -x / l^3, where the length is not cut off
        for (int64_t c = 0; c < d; ++c) {
          slopes[c] *= inverse[c] < most ? -temperature[h] * inverse[c] * inverse[c] : 0.0f;
          slopes[d + c] *= inverse[d + c] < most ? -temperature[h] * inverse[d + c] * inverse[d + c] : 0.0f;
        }
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t c = 0; c < d; ++c) {
            dq[t * width + c] += q[t * width + c] * slopes[c];
            dk[t * width + c] += k[t * width + c] * slopes[d + c];
          }
      }
    });
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t b = 0; b < batch; ++b) sum += share[b * heads + h];
      dtemperature[h] = static_cast<float>(sum);
    }
  }
};

}  // namespace

// qkv (B, N, 3C), temperature (heads, 1, 1), eps (1,) -> y (B, N, C), weights, products, 1 / lengths
KERNEL(CrossCovariance) {
  Covariance{shapes[0][0], shapes[0][1], shapes[0][2] / 3, shapes[1][0], IN(1), IN(2)[0], OUT(4), OUT(5), OUT(6)}.Forward(IN(0), OUT(3));
  return 0;
}

// qkv, temperature, eps, weights, products, 1 / lengths, dy -> dqkv, dtemperature (heads, 1, 1)
KERNEL(CrossCovarianceGrad) {
  Covariance{shapes[0][0], shapes[0][1], shapes[0][2] / 3, shapes[1][0], IN(1), IN(2)[0], OUT(3), OUT(4), OUT(5)}.Backward(IN(0), IN(6), OUT(7), OUT(8));
  return 0;
}

// ---- residual branches from end to end: x + keep gamma f(norm(x)), where f is an MLP or self-attention ----
//
// Their first inputs: x (..., C), keep (B,), gamma (C,) or (1,), the norm's weight, bias and eps, and f's first and last product: weight (inner, C),
// bias (inner,), weight (C, hidden), bias (C,). The first outputs of their gradients: those of x, gamma, the norm's weight and bias, and of these four.

namespace {

constexpr int kEnds = 10, kEndGrads = 8;

struct Exact {
  static float Value(float x) { return Gelu(x); }
  static float Slope(float x) { return GeluSlope(x); }
};

// x * sigmoid(1.702 x)
struct Quick {
  static float Sigmoid(float x) {
    const float e = Exp(-std::fabs(x)), s = 1.0f / (1.0f + e);
    return x > 0 ? s : e * s;
  }
  static float Value(float x) { return x * Sigmoid(1.702f * x); }
  static float Slope(float x) {
    const float s = Sigmoid(1.702f * x);
    return s * (1.0f + 1.702f * x * (1.0f - s));
  }
};

// What branches begin and end with.
struct Ends {
  const float *x, *keep;
  Branch branch;
  Norm norm;
  const float *weight1, *bias1, *weight2, *bias2;
  int64_t rows, channels, inner, hidden;

  Ends(void **params, const int *ndims, int64_t **shapes)
      : x(IN(0)), keep(IN(1)), branch(shapes[0], ndims[0], IN(2), shapes[2][0], shapes[1][0]), norm{IN(3), IN(4), IN(5)[0], branch.channels},
        weight1(IN(6)), bias1(IN(7)), weight2(IN(8)), bias2(IN(9)), rows(branch.rows), channels(branch.channels), inner(shapes[6][0]), hidden(shapes[8][1]) {}

  // `count` rows from `first`: y = norm(x), h = y W1^T; y and h begin with these rows, means and inverses (null: not wanted) with all rows
  void Begin(int64_t first, int64_t count, float *y, float *means, float *inverses, float *h) const {
    float mean, inverse;
    for (int64_t r = 0; r < count; ++r)
      NormRow(x + (first + r) * channels, norm, y + r * channels, means ? means + first + r : &mean, inverses ? inverses + first + r : &inverse);
    gemm()('N', 'T', count, inner, channels, 1.0f, y, channels, weight1, channels, 0.0f, h, inner);
  }

  // out = x + keep gamma (a W2^T + b2); a begins with these rows
  void End(int64_t first, int64_t count, const float *a, float *out) const {
    gemm()('N', 'T', count, channels, hidden, 1.0f, a, hidden, weight2, hidden, 0.0f, out + first * channels, channels);
    const float *gamma = branch.gamma.data(), *bias = bias2;
    for (int64_t r = first; r < first + count; ++r) {
      const float factor = keep[r / branch.rows_of_sample], *from = x + r * channels;
      float *to = out + r * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = from[c] + factor * gamma[c] * (to[c] + bias[c]);
    }
  }

  // d = keep dout, da = gamma d W2
  void EndGrad(int64_t first, int64_t count, const float *dout, float *d, float *da) const {
    float *scaled = Scratch(0, count * channels);
    const float *gamma = branch.gamma.data();
    for (int64_t r = 0; r < count; ++r) {
      const float factor = keep[(first + r) / branch.rows_of_sample], *from = dout + (first + r) * channels;
      float *to = d + (first + r) * channels, *with_gamma = scaled + r * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        to[c] = factor * from[c];
        with_gamma[c] = gamma[c] * to[c];
      }
    }
    gemm()('N', 'N', count, hidden, channels, 1.0f, scaled, channels, weight2, hidden, 0.0f, da + first * hidden, hidden);
  }

  // what is summed up over rows: the gradients of the norm's weight and bias, and of the products' biases
  int64_t summed() const { return 3 * channels + inner; }

  // dx = dout + the gradient that comes through the norm
  void BeginGrad(int64_t first, int64_t count, const float *means, const float *inverses, const float *dh, const float *d, const float *dout, float *dx,
                 float *sums) const {
    gemm()('N', 'N', count, channels, inner, 1.0f, dh + first * inner, inner, weight1, channels, 0.0f, dx + first * channels, channels);
    AddRows(first, first + count, kBlock, summed(), sums, [&](int64_t r, float *sum) {
      float *to = dx + r * channels;
      NormRowGrad(x + r * channels, norm.weight, means[r], inverses[r], to, dout + r * channels, to, sum, sum + channels, channels);
      AddTo(sum + 2 * channels, dh + r * inner, inner);
      AddTo(sum + 2 * channels + inner, d + r * channels, channels);
    });
  }

  // sums: see summed; grads: the outputs after dx. With G = d^T a, the gradient of W2 is gamma G, and gamma's needs no product of its own: each row of
  // W2 times that of G
  void WeightGrads(const float *y, const float *dh, const float *a, const float *d, const std::vector<float> &sums, void **grads, int64_t gammas) const {
    float *to[kEndGrads - 1];
    for (int i = 0; i < kEndGrads - 1; ++i) to[i] = static_cast<float *>(grads[i]);
    const float *sum = sums.data();
    std::copy(sum, sum + channels, to[1]);
    std::copy(sum + channels, sum + 2 * channels, to[2]);
    std::copy(sum + 2 * channels, sum + 2 * channels + inner, to[4]);
    std::copy(sum + 2 * channels + inner, sum + summed(), to[6]);
    WeightGrad(y, dh, {rows, channels, inner}, to[3], nullptr);
    WeightGrad(a, d, {rows, hidden, channels}, to[5], nullptr);
    std::vector<float> dots(channels);
    Rows(channels, hidden, [&](int64_t first, int64_t last, int) {
      for (int64_t c = first; c < last; ++c) {
        float *g = to[5] + c * hidden, dot = 0;
        const float *weight = weight2 + c * hidden, gamma = branch.gamma[c];
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < hidden; ++i) {
          dot += weight[i] * g[i];
          g[i] *= gamma;
        }
        dots[c] = dot + bias2[c] * to[6][c];
        to[6][c] *= gamma;
      }
    });
    std::fill(to[0], to[0] + gammas, 0.0f);
    for (int64_t c = 0; c < channels; ++c) to[0][c % gammas] += dots[c];
  }
};

// y, means, inverses and h are for the gradient, or null
template <typename Activation>
int MlpForward(const Ends &ends, float *out, float *y, float *means, float *inverses, float *h) {
  const int64_t c = ends.channels, hidden = ends.hidden;
  Tiles(ends.rows, 2 * c * hidden, [&](int64_t first, int64_t count, int) {
    float *normal = y ? y + first * c : Scratch(0, count * c), *a = Scratch(1, count * hidden), *before = h ? h + first * hidden : a;
    ends.Begin(first, count, normal, means, inverses, before);
    for (int64_t r = 0; r < count; ++r)
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) a[r * hidden + i] = Activation::Value(before[r * hidden + i] + ends.bias1[i]);
    ends.End(first, count, a, out);
  });
  return 0;
}

// saved: y, means, inverses, h, and dout; grads, after those of the ends: d, dh, a
template <typename Activation>
int MlpBackward(const Ends &ends, void **saved, void **grads, int64_t gammas) {
  const int64_t hidden = ends.hidden;
  const float *y = static_cast<const float *>(saved[0]), *means = static_cast<const float *>(saved[1]), *inverses = static_cast<const float *>(saved[2]);
  const float *h = static_cast<const float *>(saved[3]), *dout = static_cast<const float *>(saved[4]), *bias = ends.bias1;
  float *dx = static_cast<float *>(grads[0]), *d = static_cast<float *>(grads[kEndGrads]), *dh = static_cast<float *>(grads[kEndGrads + 1]);
  float *a = static_cast<float *>(grads[kEndGrads + 2]);
  Lines lines(Pool::Get().size(), ends.summed());
  Tiles(ends.rows, 2 * ends.channels * hidden, [&](int64_t first, int64_t count, int part) {
    ends.EndGrad(first, count, dout, d, dh);
    for (int64_t r = first; r < first + count; ++r) {
      const float *from = h + r * hidden;
      float *value = a + r * hidden, *slope = dh + r * hidden;
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) {
        const float z = from[i] + bias[i];
        value[i] = Activation::Value(z);
        slope[i] *= Activation::Slope(z);
      }
    }
    ends.BeginGrad(first, count, means, inverses, dh, d, dout, dx, lines.of(part));
  });
  ends.WeightGrads(y, dh, a, d, lines.Sums(), grads + 1, gammas);
  return 0;
}

// `attention` makes a of qkv. y, means and inverses are for the gradient, or null
template <typename Attention>
int AttentionForward(const Ends &ends, const Attention &attention, float *out, float *y, float *means, float *inverses, float *qkv, float *a) {
  const int64_t c = ends.channels;
  Tiles(ends.rows, c * ends.inner, [&](int64_t first, int64_t count, int) {
    float *to = qkv + first * ends.inner;
    ends.Begin(first, count, y ? y + first * c : Scratch(0, count * c), means, inverses, to);
    for (int64_t r = 0; r < count; ++r) AddTo(to + r * ends.inner, ends.bias1, ends.inner);
  });
  attention.Forward(qkv, a);
  Tiles(ends.rows, c * ends.hidden, [&](int64_t first, int64_t count, int) { ends.End(first, count, a + first * ends.hidden, out); });
  return 0;
}

// backward(qkv, da, dqkv) is the attention's own gradient. saved: y, means, inverses, qkv, a; grads, after those of the ends: d, da, dqkv
template <typename Backward>
int AttentionBackward(const Ends &ends, const Backward &backward, void **saved, const float *dout, void **grads, int64_t gammas) {
  const float *y = static_cast<const float *>(saved[0]), *means = static_cast<const float *>(saved[1]), *inverses = static_cast<const float *>(saved[2]);
  const float *qkv = static_cast<const float *>(saved[3]), *a = static_cast<const float *>(saved[4]);
  float *dx = static_cast<float *>(grads[0]), *d = static_cast<float *>(grads[kEndGrads]), *da = static_cast<float *>(grads[kEndGrads + 1]);
  float *dqkv = static_cast<float *>(grads[kEndGrads + 2]);
  Tiles(ends.rows, ends.channels * ends.hidden,
        [&](int64_t first, int64_t count, int) { ends.EndGrad(first, count, dout, d, da); });
  backward(qkv, da, dqkv);
  Lines lines(Pool::Get().size(), ends.summed());
  Tiles(ends.rows, ends.channels * ends.inner,
        [&](int64_t first, int64_t count, int part) { ends.BeginGrad(first, count, means, inverses, dqkv, d, dout, dx, lines.of(part)); });
  ends.WeightGrads(y, dqkv, a, d, lines.Sums(), grads + 1, gammas);
  return 0;
}

}  // namespace

// -> the branch's result, and for the gradient y, means, 1 / deviations, y W1^T
KERNEL(MlpGelu) { return MlpForward<Exact>(Ends(params, ndims, shapes), OUT(10), OUT(11), OUT(12), OUT(13), OUT(14)); }
KERNEL(MlpQuickGelu) { return MlpForward<Quick>(Ends(params, ndims, shapes), OUT(10), OUT(11), OUT(12), OUT(13), OUT(14)); }

// -> the branch's result
KERNEL(MlpGeluPredict) { return MlpForward<Exact>(Ends(params, ndims, shapes), OUT(10), nullptr, nullptr, nullptr, nullptr); }
KERNEL(MlpQuickGeluPredict) { return MlpForward<Quick>(Ends(params, ndims, shapes), OUT(10), nullptr, nullptr, nullptr, nullptr); }

// the inputs, what was kept, the result's gradient -> the gradients, and three tensors to work with: (..., C), (..., hidden), (..., hidden)
KERNEL(MlpGeluGrad) { return MlpBackward<Exact>(Ends(params, ndims, shapes), params + kEnds, params + kEnds + 5, shapes[2][0]); }
KERNEL(MlpQuickGeluGrad) { return MlpBackward<Quick>(Ends(params, ndims, shapes), params + kEnds, params + kEnds + 5, shapes[2][0]); }

// and numbers (2,): scale, heads -> the branch's result, and for the gradient y, means, 1 / deviations, qkv (B, N, 3C), a (B, N, C), weights
KERNEL(AttentionBranch) {
  const SelfAttention attention{shapes[0][0], shapes[0][1], shapes[0][2], static_cast<int64_t>(IN(10)[1]), IN(10)[0], OUT(17)};
  return AttentionForward(Ends(params, ndims, shapes), attention, OUT(11), OUT(12), OUT(13), OUT(14), OUT(15), OUT(16));
}

// -> the branch's result, and to work with: qkv, a
KERNEL(AttentionBranchPredict) {
  const SelfAttention attention{shapes[0][0], shapes[0][1], shapes[0][2], static_cast<int64_t>(IN(10)[1]), IN(10)[0], nullptr};
  return AttentionForward(Ends(params, ndims, shapes), attention, OUT(11), nullptr, nullptr, nullptr, OUT(12), OUT(13));
}

// the inputs, what was kept, the result's gradient -> the gradients, and three tensors to work with: (B, N, C) twice, (B, N, 3C)
KERNEL(AttentionBranchGrad) {
  const SelfAttention attention{shapes[0][0], shapes[0][1], shapes[0][2], static_cast<int64_t>(IN(10)[1]), IN(10)[0], OUT(16)};
  const auto backward = [&](const float *qkv, const float *da, float *dqkv) { attention.Backward(qkv, da, dqkv); };
  return AttentionBackward(Ends(params, ndims, shapes), backward, params + 11, IN(17), params + 18, shapes[2][0]);
}

// and temperature (heads, 1, 1), eps (1,) -> the branch's result, and for the gradient y, means, 1 / deviations, qkv, a, weights, products, 1 / lengths
KERNEL(CovarianceBranch) {
  const Covariance attention{shapes[0][0], shapes[0][1], shapes[0][2], shapes[10][0], IN(10), IN(11)[0], OUT(18), OUT(19), OUT(20)};
  return AttentionForward(Ends(params, ndims, shapes), attention, OUT(12), OUT(13), OUT(14), OUT(15), OUT(16), OUT(17));
}

// -> the branch's result, and to work with: qkv, a, weights, products, 1 / lengths
KERNEL(CovarianceBranchPredict) {
  const Covariance attention{shapes[0][0], shapes[0][1], shapes[0][2], shapes[10][0], IN(10), IN(11)[0], OUT(15), OUT(16), OUT(17)};
  return AttentionForward(Ends(params, ndims, shapes), attention, OUT(12), nullptr, nullptr, nullptr, OUT(13), OUT(14));
}

// the inputs, what was kept, the result's gradient -> the gradients, three tensors to work with, and the temperature's gradient
KERNEL(CovarianceBranchGrad) {
  const Covariance attention{shapes[0][0], shapes[0][1], shapes[0][2], shapes[10][0], IN(10), IN(11)[0], OUT(17), OUT(18), OUT(19)};
  const auto backward = [&](const float *qkv, const float *da, float *dqkv) { attention.Backward(qkv, da, dqkv, OUT(32)); };
  return AttentionBackward(Ends(params, ndims, shapes), backward, params + 12, IN(20), params + 21, shapes[2][0]);
}

// ---- CrossViT's fusion: a branch's class token, projected to the other branch's width, attends to that branch's patches and is projected back ----
//
// Inputs: own tokens (B, N, C), the other branch's (B, M, D), keep (B,) or (1,), eps (1,); LayerNorm (C,) and product (D, C) of the first projection;
// the attention's norm (D,), wq and its bias, wk, wv and its bias, proj and its bias, of width D; LayerNorm (D,) and product (C, D) of the second
// projection; numbers (2,): scale, heads.

namespace {

// The gradient of a norm of few rows, `stride` values apart, whose statistics are taken again
void FewRowsNormGrad(const float *x, int64_t stride, const Norm &norm, int64_t rows, const float *dy, const float *more, float *dx, float *dweight,
                     float *dbias) {
  const int64_t channels = norm.channels;
  std::vector<float> again(channels);
  for (int64_t r = 0; r < rows; ++r) {
    float mean, inverse;
    NormRow(x + r * stride, norm, again.data(), &mean, &inverse);
    NormRowGrad(x + r * stride, norm.weight, mean, inverse, dy + r * channels, more + r * channels, dx + r * channels, dweight, dbias, channels);
  }
}

// Linear of GELU of LayerNorm, for one row a sample
struct Projection {
  Norm norm;
  const float *weight, *bias;
  int64_t outputs;

  void Inside(const float *x, int64_t stride, int64_t rows, float *normal, float *g) const {
    float mean, inverse;
    for (int64_t r = 0; r < rows; ++r) {
      NormRow(x + r * stride, norm, normal + r * norm.channels, &mean, &inverse);
      for (int64_t c = 0; c < norm.channels; ++c) g[r * norm.channels + c] = Gelu(normal[r * norm.channels + c]);
    }
  }

  std::vector<float> Forward(const float *x, int64_t stride, int64_t rows) const {
    std::vector<float> normal(rows * norm.channels), g(normal.size()), y(rows * outputs);
    Inside(x, stride, rows, normal.data(), g.data());
    Product(g.data(), weight, bias, {rows, norm.channels, outputs}, y.data());
    return y;
  }

  // dy -> dx, and into grads those of the norm's weight and bias, the product's weight and bias
  std::vector<float> Backward(const float *x, int64_t stride, int64_t rows, const float *dy, float *const *grads) const {
    const int64_t channels = norm.channels;
    std::vector<float> normal(rows * channels), g(normal.size()), d(normal.size()), zeros(normal.size(), 0.0f);
    Inside(x, stride, rows, normal.data(), g.data());
    WeightGrad(g.data(), dy, {rows, channels, outputs}, grads[2], grads[3]);
    gemm()('N', 'N', rows, channels, outputs, 1.0f, dy, outputs, weight, channels, 0.0f, d.data(), channels);
    for (size_t i = 0; i < d.size(); ++i) d[i] *= GeluSlope(normal[i]);
    std::fill(grads[0], grads[0] + channels, 0.0f);
    std::fill(grads[1], grads[1] + channels, 0.0f);
    FewRowsNormGrad(x, stride, norm, rows, d.data(), zeros.data(), d.data(), grads[0], grads[1]);
    return d;
  }
};

constexpr int kFusionWeights = 17;

struct Fusion {
  const float *own, *other, *keep;
  int64_t batch, tokens, width, samples, heads, depth;
  ClassQueries size;
  Projection to, from;
  Norm norm;
  const float *wq, *bq, *wk, *wv, *bv, *wo, *bo;
  float scale;

  Fusion(void **params, int64_t **shapes)
      : own(IN(0)), other(IN(1)), keep(IN(2)), batch(shapes[0][0]), tokens(shapes[0][1]), width(shapes[0][2]), samples(shapes[2][0]),
        heads(static_cast<int64_t>(IN(21)[1])), depth(shapes[1][2] / heads), size{batch, heads, shapes[1][2], shapes[1][1], 1, shapes[1][1] - 1},
        to{{IN(4), IN(5), IN(3)[0], width}, IN(6), IN(7), size.channels}, from{{IN(17), IN(18), IN(3)[0], size.channels}, IN(19), IN(20), width},
        norm{IN(8), IN(9), IN(3)[0], size.channels}, wq(IN(10)), bq(IN(11)), wk(IN(12)), wv(IN(13)), bv(IN(14)), wo(IN(15)), bo(IN(16)), scale(IN(21)[0]) {}

  float factor(int64_t sample) const { return keep[samples == 1 ? 0 : sample]; }

  // c (B, D) -> its norm
  std::vector<float> Normal(const float *c) const {
    std::vector<float> normal(batch * size.channels);
    float mean, inverse;
    for (int64_t b = 0; b < batch; ++b) NormRow(c + b * size.channels, norm, normal.data() + b * size.channels, &mean, &inverse);
    return normal;
  }
};

}  // namespace

// -> own tokens with the new class token, or that alone, whichever the result's shape has room for; and for the gradient the class token in the other
// width (B, D), q (B, D), q Wk (B, heads, D), weights (B, heads, M), what each head sees (B, heads, D), its values (B, D), the class token after attention
// (B, D), the norm of the patches (B, M, D), means and 1 / deviations (B, M)
KERNEL(CrossFusion) {
  const Fusion f(params, shapes);
  const int64_t d = f.size.channels, m = f.size.rows, heads = f.heads, depth = f.depth, sample = shapes[22][1] * f.width;
  float *out = OUT(22), *c = OUT(23), *q = OUT(24), *a = OUT(25), *weights = OUT(26), *seen = OUT(27), *v = OUT(28), *after = OUT(29), *t = OUT(30);
  float *means = OUT(31), *inverses = OUT(32);
  const auto projected = f.to.Forward(f.own, f.tokens * f.width, f.batch);
  std::copy(projected.begin(), projected.end(), c);
  const auto normal = f.Normal(c);
  Product(normal.data(), f.wq, f.bq, {f.batch, d, d}, q);
  for (int64_t h = 0; h < heads; ++h)
    gemm()('N', 'N', f.batch, d, depth, f.scale, q + h * depth, d, f.wk + h * depth * d, d, 0.0f, a + h * d, heads * d);
  Rows(f.batch, m * d * 2, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      for (int64_t r = b * m + 1; r < (b + 1) * m; ++r) NormRow(f.other + r * d, f.norm, t + r * d, means + r, inverses + r);
      f.size.Forward(b, a, normal.data(), t, weights, seen);
      std::copy(f.own + b * f.tokens * f.width, f.own + b * f.tokens * f.width + sample, out + b * sample);
    }
  });
  for (int64_t h = 0; h < heads; ++h)
    gemm()('N', 'T', f.batch, depth, d, 1.0f, seen + h * d, heads * d, f.wv + h * depth * d, d, 0.0f, v + h * depth, d);
  for (int64_t i = 0; i < f.batch * d; ++i) v[i] += f.bv[i % d];
  Product(v, f.wo, f.bo, {f.batch, d, d}, after);
  for (int64_t i = 0; i < f.batch * d; ++i) after[i] = c[i] + f.factor(i / d) * after[i];
  const auto found = f.from.Forward(after, d, f.batch);
  for (int64_t b = 0; b < f.batch; ++b) std::copy(found.begin() + b * f.width, found.begin() + (b + 1) * f.width, out + b * sample);
  return 0;
}

// the inputs, what was kept, the result's gradient, and more of own and of other tokens' gradients, or (1,) where there is no more
// -> the gradients of own and other tokens and of the 17 weights; (B, M, D) to work with
KERNEL(CrossFusionGrad) {
  const Fusion f(params, shapes);
  const int64_t d = f.size.channels, m = f.size.rows, heads = f.heads, depth = f.depth, batch = f.batch, own = f.tokens * f.width;
  const int64_t sample = shapes[32][1] * f.width;
  const float *c = IN(22), *q = IN(23), *a = IN(24), *weights = IN(25), *seen = IN(26), *v = IN(27), *after = IN(28), *t = IN(29), *means = IN(30);
  const float *inverses = IN(31), *dout = IN(32);
  const float *more_own = Count(ndims[33], shapes[33]) > 1 ? IN(33) : nullptr, *more_other = Count(ndims[34], shapes[34]) > 1 ? IN(34) : nullptr;
  float *down = OUT(35), *dother = OUT(36), *dt = OUT(37 + kFusionWeights);
  float *grads[kFusionWeights];
  for (int i = 0; i < kFusionWeights; ++i) grads[i] = OUT(37 + i);
  const auto normal = f.Normal(c);
  std::vector<float> dnew(batch * f.width), dv(batch * d), dq(batch * d), dseen(batch * heads * d), da(batch * heads * d), dnormal(batch * d);

  for (int64_t b = 0; b < batch; ++b) std::copy(dout + b * sample, dout + b * sample + f.width, dnew.begin() + b * f.width);
  const auto dafter = f.from.Backward(after, d, batch, dnew.data(), grads + 13);
  std::vector<float> dproduct(dafter);
  for (int64_t i = 0; i < batch * d; ++i) dproduct[i] *= f.factor(i / d);
  WeightGrad(v, dproduct.data(), {batch, d, d}, grads[11], grads[12]);
  gemm()('N', 'N', batch, d, d, 1.0f, dproduct.data(), d, f.wo, d, 0.0f, dv.data(), d);
  for (int64_t h = 0; h < heads; ++h) {
    gemm()('N', 'N', batch, d, depth, 1.0f, dv.data() + h * depth, d, f.wv + h * depth * d, d, 0.0f, dseen.data() + h * d, heads * d);
    gemm()('T', 'N', depth, d, batch, 1.0f, dv.data() + h * depth, d, seen + h * d, heads * d, 0.0f, grads[9] + h * depth * d, d);
  }
  std::fill(grads[10], grads[10] + d, 0.0f);
  for (int64_t i = 0; i < batch * d; ++i) grads[10][i % d] += dv[i];
  Lines lines(Pool::Get().size(), 2 * d);
  const std::vector<float> zeros(d, 0.0f);
  Rows(batch, m * d * 4, [&](int64_t first, int64_t last, int part) {
    for (int64_t b = first; b < last; ++b) {
      f.size.Backward(b, a, normal.data(), t, weights, dseen.data(), da.data(), dnormal.data(), dt);
      const float *first_more = more_other ? more_other + b * m * d : zeros.data();
      std::copy(first_more, first_more + d, dother + b * m * d);  // the other branch's class token was not seen
      AddRows(b * m + 1, (b + 1) * m, kBlock, 2 * d, lines.of(part), [&](int64_t r, float *sum) {
        const float *more = more_other ? more_other + r * d : zeros.data();
        NormRowGrad(f.other + r * d, f.norm.weight, means[r], inverses[r], dt + r * d, more, dother + r * d, sum, sum + d, d);
      });
      if (more_own)
        std::copy(more_own + b * own, more_own + (b + 1) * own, down + b * own);
      else
        std::fill(down + b * own, down + (b + 1) * own, 0.0f);
      AddTo(down + b * own + f.width, dout + b * sample + f.width, sample - f.width);  // the class token is a new one
    }
  });
  for (int64_t h = 0; h < heads; ++h) {
    gemm()('N', 'T', batch, depth, d, f.scale, da.data() + h * d, heads * d, f.wk + h * depth * d, d, 0.0f, dq.data() + h * depth, d);
    gemm()('T', 'N', depth, d, batch, f.scale, q + h * depth, d, da.data() + h * d, heads * d, 0.0f, grads[8] + h * depth * d, d);
  }
  WeightGrad(normal.data(), dq.data(), {batch, d, d}, grads[6], grads[7]);
  gemm()('N', 'N', batch, d, d, 1.0f, dq.data(), d, f.wq, d, 1.0f, dnormal.data(), d);
  const auto sums = lines.Sums();
  std::copy(sums.begin(), sums.begin() + d, grads[4]);
  std::copy(sums.begin() + d, sums.end(), grads[5]);
  std::vector<float> dc(batch * d);
  FewRowsNormGrad(c, d, f.norm, batch, dnormal.data(), dafter.data(), dc.data(), grads[4], grads[5]);
  const auto dcls = f.to.Backward(f.own, own, batch, dc.data(), grads);
  for (int64_t b = 0; b < batch; ++b) AddTo(down + b * own, dcls.data() + b * f.width, f.width);
  return 0;
}

// ---- CrossViT's beginning: patches that do not overlap, multiplied, after a class token, all with their positions ----

namespace {

// Pictures (B, C, H, W) as patches of side x side: a row of C side side values each
struct Patches {
  const float *x;
  int64_t channels, height, width, side, number, values;

  Patches(const float *x_, const int64_t *shape, int64_t side_)
      : x(x_), channels(shape[1]), height(shape[2]), width(shape[3]), side(side_), number(height / side * (width / side)), values(channels * side * side) {}

  // patch `place` of sample b
  void Copy(int64_t b, int64_t place, float *to) const {
    const int64_t top = place / (width / side) * side, left = place % (width / side) * side;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = top; y < top + side; ++y, to += side) {
        const float *from = x + ((b * channels + c) * height + y) * width + left;
        std::copy(from, from + side, to);
      }
  }
};

}  // namespace

// x (B, C, H, W), weight (D, C, side, side), bias (D,), class token (1, 1, D), positions (1, 1 + N, D) -> tokens (B, 1 + N, D), patches (B, N, C side side)
KERNEL(PatchTokens) {
  const Patches patches(IN(0), shapes[0], shapes[1][2]);
  const float *weight = IN(1), *bias = IN(2), *cls = IN(3), *positions = IN(4);
  float *tokens = OUT(5), *columns = OUT(6);
  const int64_t batch = shapes[0][0], n = patches.number, in = patches.values, d = shapes[1][0];
  Tiles(batch * n, in * d, [&](int64_t start, int64_t count, int) {
    for (int64_t first = start, rows; first < start + count; first += rows) {
      const int64_t b = first / n, place = first % n;
      rows = std::min(n - place, start + count - first);  // within a sample
      for (int64_t r = first; r < first + rows; ++r) patches.Copy(b, r % n, columns + r * in);
      float *to = tokens + (first + b + 1) * d;
      gemm()('N', 'T', rows, d, in, 1.0f, columns + first * in, in, weight, in, 0.0f, to, d);
      for (int64_t r = 0; r < rows; ++r) {
        AddTo(to + r * d, bias, d);
        AddTo(to + r * d, positions + (place + r + 1) * d, d);
      }
    }
  });
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < d; ++c) tokens[b * (n + 1) * d + c] = cls[c] + positions[c];
  return 0;
}

// patches (B, N, C side side), dtokens (B, 1 + N, D) -> the gradients of weight, bias, class token and positions
KERNEL(PatchTokensGrad) {
  const float *columns = IN(0), *dtokens = IN(1);
  float *dweight = OUT(2), *dbias = OUT(3), *dcls = OUT(4), *dpositions = OUT(5);
  const int64_t batch = shapes[0][0], n = shapes[0][1], in = shapes[0][2], d = shapes[1][2], sample = (n + 1) * d;
  Rows(d, batch * n * in, [=](int64_t first, int64_t last, int) {
    for (int64_t b = 0; b < batch; ++b)
      gemm()('T', 'N', last - first, in, n, 1.0f, dtokens + b * sample + d + first, d, columns + b * n * in, in, b == 0 ? 0.0f : 1.0f,
             dweight + first * in, in);
  });
  Rows(n + 1, batch * d, [=](int64_t first, int64_t last, int) {
    std::copy(dtokens + first * d, dtokens + last * d, dpositions + first * d);
    for (int64_t b = 1; b < batch; ++b) AddTo(dpositions + first * d, dtokens + b * sample + first * d, (last - first) * d);
  });
  const auto sums = SumRows(n, d, kBlock, d, [=](int64_t r, float *sum) { AddTo(sum, dpositions + (r + 1) * d, d); });
  std::copy(sums.begin(), sums.end(), dbias);
  std::copy(dpositions, dpositions + d, dcls);
  return 0;
}

// ---- convolutions and batch normalisation of B x H x W x C ----

namespace {

struct Picture {
  int64_t batch, height, width, channels;
  int64_t row() const { return width * channels; }
};

Picture PictureOf(const int64_t *shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

int64_t StrideOf(const Picture &in, const Picture &out) { return out.height == in.height && out.width == in.width ? 1 : 2; }

// weight (C, 1, 3, 3) -> 9 rows of C
std::vector<float> Taps(const float *weight, int64_t channels) {
  std::vector<float> taps(9 * channels);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < 9; ++t) taps[t * channels + c] = weight[c * 9 + t];
  return taps;
}

// the nine pixels of `x` under the kernel at an output, or `zeros` beyond the border
void Under(const float *x, const Picture &in, int64_t b, int64_t oy, int64_t ox, int64_t stride, const float *zeros, const float **pixels) {
  for (int64_t t = 0; t < 9; ++t) {
    const int64_t y = oy * stride + t / 3 - 1, c = ox * stride + t % 3 - 1;
    const bool inside = y >= 0 && y < in.height && c >= 0 && c < in.width;
    pixels[t] = inside ? x + ((b * in.height + y) * in.width + c) * in.channels : zeros;
  }
}

// y = start + sum over t of weight[t] * p[t], for all channels; taps: 9 rows of weights
inline void Weighed(const float *const *p, const float *taps, const float *start, float *y, int64_t channels) {
  const float *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3], *p4 = p[4], *p5 = p[5], *p6 = p[6], *p7 = p[7], *p8 = p[8];
  const int64_t n = channels;
#pragma omp simd
  for (int64_t c = 0; c < n; ++c)
    y[c] = start[c] + taps[c] * p0[c] + taps[n + c] * p1[c] + taps[2 * n + c] * p2[c] + taps[3 * n + c] * p3[c] + taps[4 * n + c] * p4[c] +
           taps[5 * n + c] * p5[c] + taps[6 * n + c] * p6[c] + taps[7 * n + c] * p7[c] + taps[8 * n + c] * p8[c];
}

// y (B, H', W', C) = x (B, H, W, C) under the taps weight (C, 1, 3, 3), plus bias; padding 1. then(r) follows each of the B H' rows of pixels.
template <typename Then>
void Convolve(const float *x, const Picture &in, const Picture &out, const float *weight, const float *bias, float *y, const Then &then) {
  const int64_t channels = in.channels, stride = StrideOf(in, out);
  const std::vector<float> taps = Taps(weight, channels), none(channels, 0.0f);
  const float *w = taps.data(), *zeros = none.data();
  Rows(out.batch * out.height, out.row() * 4, [&, w, zeros](int64_t first, int64_t last, int) {
    const float *p[9];
    for (int64_t r = first; r < last; ++r) {
      for (int64_t ox = 0; ox < out.width; ++ox) {
        Under(x, in, r / out.height, r % out.height, ox, stride, zeros, p);
        Weighed(p, w, bias, y + (r * out.width + ox) * channels, channels);
      }
      then(r);
    }
  });
}

// its gradients
void ConvolveGrad(const float *x, const Picture &in, const Picture &out, const float *weight, const float *dy, float *dx, float *dweight, float *dbias) {
  const int64_t channels = in.channels, stride = StrideOf(in, out);
  const std::vector<float> taps = Taps(weight, channels), none(channels, 0.0f);
  const float *w = taps.data(), *zeros = none.data();
  Rows(in.batch * in.height, in.row() * 4, [=](int64_t first, int64_t last, int) {
    const float *p[9];
    for (int64_t r = first; r < last; ++r)
      for (int64_t ix = 0; ix < in.width; ++ix) {
        const int64_t b = r / in.height, iy = r % in.height;
        for (int64_t t = 0; t < 9; ++t) {
          const int64_t y = iy + 1 - t / 3, c = ix + 1 - t % 3;  // times the stride, the output whose tap t lies here
          const bool inside = y >= 0 && c >= 0 && y % stride == 0 && c % stride == 0 && y / stride < out.height && c / stride < out.width;
          p[t] = inside ? dy + ((b * out.height + y / stride) * out.width + c / stride) * channels : zeros;
        }
        Weighed(p, w, zeros, dx + (r * in.width + ix) * channels, channels);
      }
  });
  // a row of pixels is a block of its own
  const auto sums = SumRows(out.batch * out.height, out.row() * 4, 1, 10 * channels, [=](int64_t r, float *sum) {
    const float *p[9];
    for (int64_t ox = 0; ox < out.width; ++ox) {
      Under(x, in, r / out.height, r % out.height, ox, stride, zeros, p);
      const float *d = dy + (r * out.width + ox) * channels;
      for (int64_t t = 0; t < 9; ++t) {
        float *to = sum + t * channels;
        const float *from = p[t];
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) to[c] += from[c] * d[c];
      }
      AddTo(sum + 9 * channels, d, channels);
    }
  });
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < 9; ++t) dweight[c * 9 + t] = sums[t * channels + c];
  std::copy(sums.begin() + 9 * channels, sums.end(), dbias);
}

}  // namespace

// x (B, H, W, C), weight (C, 1, 3, 3), bias (C,) -> y (B, H', W', C); the stride follows from the sizes
KERNEL(Depthwise) {
  Convolve(IN(0), PictureOf(shapes[0]), PictureOf(shapes[3]), IN(1), IN(2), OUT(3), [](int64_t) {});
  return 0;
}

// x, weight, dy -> dx, dweight (C, 1, 3, 3), dbias (C,)
KERNEL(DepthwiseGrad) {
  ConvolveGrad(IN(0), PictureOf(shapes[0]), PictureOf(shapes[2]), IN(1), IN(2), OUT(3), OUT(4), OUT(5));
  return 0;
}

// x (B, H, W, I), geometry (3,): kernel, stride, padding; -> columns (B, H', W', k*k*I), what lies under the kernel at each place
KERNEL(Columns) {
  const Picture in = PictureOf(shapes[0]), out = PictureOf(shapes[2]);
  const float *x = IN(0), *geometry = IN(1);
  float *columns = OUT(2);
  const int64_t k = static_cast<int64_t>(geometry[0]), stride = static_cast<int64_t>(geometry[1]), padding = static_cast<int64_t>(geometry[2]);
  Rows(out.batch * out.height, out.row(), [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t ox = 0; ox < out.width; ++ox)
        for (int64_t ky = 0; ky < k; ++ky) {
          const int64_t y = r % out.height * stride + ky - padding, left = ox * stride - padding;
          float *to = columns + (r * out.width + ox) * out.channels + ky * k * in.channels;
          if (y < 0 || y >= in.height) {
            std::fill(to, to + k * in.channels, 0.0f);
            continue;
          }
          const int64_t from = std::max<int64_t>(0, -left), until = std::max(from, std::min(k, in.width - left));
          std::fill(to, to + from * in.channels, 0.0f);
          const float *row = x + ((r / out.height * in.height + y) * in.width + left) * in.channels;
          std::copy(row + from * in.channels, row + until * in.channels, to + from * in.channels);
          std::fill(to + until * in.channels, to + k * in.channels, 0.0f);
        }
  });
  return 0;
}

// dcolumns, geometry, x (for its size) -> dx
KERNEL(ColumnsGrad) {
  const Picture out = PictureOf(shapes[0]), in = PictureOf(shapes[2]);
  const float *d = IN(0), *geometry = IN(1);
  float *dx = OUT(3);
  const int64_t k = static_cast<int64_t>(geometry[0]), stride = static_cast<int64_t>(geometry[1]), padding = static_cast<int64_t>(geometry[2]);
  Rows(in.batch * in.height, in.row() * 4, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      float *row = dx + r * in.row();
      std::fill(row, row + in.row(), 0.0f);
      for (int64_t ky = 0; ky < k; ++ky) {
        const int64_t y = r % in.height + padding - ky;
        if (y < 0 || y % stride != 0 || y / stride >= out.height) continue;
        const float *line = d + ((r / in.height * out.height + y / stride) * out.width) * out.channels + ky * k * in.channels;
        for (int64_t ox = 0; ox < out.width; ++ox) {
          const int64_t left = ox * stride - padding, from = std::max<int64_t>(0, -left), until = std::max(from, std::min(k, in.width - left));
          const float *source = line + ox * out.channels;
          for (int64_t i = from * in.channels; i < until * in.channels; ++i) row[left * in.channels + i] += source[i];
        }
      }
    }
  });
  return 0;
}

namespace {

// y = (x - mean) / sqrt(variance + eps) weight + bias, for (rows, channels)
void Normalise(const float *x, const float *weight, const float *bias, const float *mean, const float *variance, float eps, int64_t rows, int64_t channels,
               float *y) {
  std::vector<float> factors(channels), offsets(channels);
  for (int64_t c = 0; c < channels; ++c) {
    factors[c] = weight[c] / std::sqrt(variance[c] + eps);
    offsets[c] = bias[c] - mean[c] * factors[c];
  }
  const float *factor = factors.data(), *offset = offsets.data();
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) y[r * channels + c] = x[r * channels + c] * factor[c] + offset[c];
  });
}

// The batch's mean and, biased, variance; they move the running ones, as PyTorch's do
void Statistics(const float *x, int64_t rows, int64_t channels, float momentum, float *running_mean, float *running_variance, float *mean, float *variance) {
  const auto average = [=](const auto &add, float *to) {
    const auto sums = SumRows(rows, channels, kBlock, channels, add);
    for (int64_t c = 0; c < channels; ++c) to[c] = sums[c] / rows;
  };
  average([=](int64_t r, float *sum) { AddTo(sum, x + r * channels, channels); }, mean);
  average([=](int64_t r, float *sum) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) sum[c] += (x[r * channels + c] - mean[c]) * (x[r * channels + c] - mean[c]);
  }, variance);
  const float unbiased = static_cast<float>(rows) / std::max<int64_t>(1, rows - 1);
  for (int64_t c = 0; c < channels; ++c) {
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_variance[c] += momentum * (variance[c] * unbiased - running_variance[c]);
  }
}

// The gradients of Normalise by the batch's own mean and variance; dx may be dy. then(r) follows each row.
template <typename Then>
void NormaliseGrad(const float *x, const float *weight, const float *mean, const float *variance, float eps, const float *dy, int64_t rows, int64_t channels,
                   float *dx, float *dweight, float *dbias, const Then &then) {
  std::vector<float> inverses(channels), factors(channels), offsets(channels), slopes(channels);
  float *inverse = inverses.data(), *factor = factors.data(), *offset = offsets.data(), *slope = slopes.data();
  for (int64_t c = 0; c < channels; ++c) inverse[c] = 1.0f / std::sqrt(variance[c] + eps);
  const auto sums = SumRows(rows, channels, kBlock, 2 * channels, [=](int64_t r, float *sum) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += dy[r * channels + c] * (x[r * channels + c] - mean[c]) * inverse[c];
      sum[channels + c] += dy[r * channels + c];
    }
  });
  std::copy(sums.begin(), sums.begin() + channels, dweight);
  std::copy(sums.begin() + channels, sums.end(), dbias);
  for (int64_t c = 0; c < channels; ++c) {
    factor[c] = weight[c] * inverse[c];
    offset[c] = dbias[c] / rows;
    slope[c] = inverse[c] * dweight[c] / rows;
  }
  Rows(rows, channels, [&, factor, offset, slope](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        dx[r * channels + c] = factor[c] * (dy[r * channels + c] - offset[c] - (x[r * channels + c] - mean[c]) * slope[c]);
      then(r);
    }
  });
}

}  // namespace

// x (..., C), weight, bias, running mean and variance (C,) each, numbers (2,): eps, momentum -> y, the batch's mean (C,) and, biased, variance (C,), which
// normalise it and move the running ones where they lie
KERNEL(BatchNormForward) {
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  Statistics(IN(0), rows, channels, IN(5)[1], OUT(3), OUT(4), OUT(7), OUT(8));
  Normalise(IN(0), IN(1), IN(2), IN(7), IN(8), IN(5)[0], rows, channels, OUT(6));
  return 0;
}

// x, weight, bias, running mean and variance, numbers -> y
KERNEL(BatchNormPredict) {
  const int64_t channels = shapes[1][0];
  Normalise(IN(0), IN(1), IN(2), IN(3), IN(4), IN(5)[0], Count(ndims[0], shapes[0]) / channels, channels, OUT(6));
  return 0;
}

// x, weight, numbers, mean, variance, dy -> dx, dweight, dbias
KERNEL(BatchNormGrad) {
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  NormaliseGrad(IN(0), IN(1), IN(3), IN(4), IN(2)[0], IN(5), rows, channels, OUT(6), OUT(7), OUT(8), [](int64_t) {});
  return 0;
}

// ---- XCiT's local patch interaction in training, from end to end: x + keep gamma conv2(bn(gelu(conv1(norm(x))))) ----
//
// Inputs: x (B, H, W, C), keep (B,) or (1,), gamma (C,); LayerNorm's weight, bias and eps; weight (C, 1, 3, 3) and bias of the first depth-wise convolution;
// batch normalisation's weight, bias, running mean and variance, and numbers (2,): eps, momentum; weight and bias of the second convolution.

namespace {

struct Local {
  const float *x, *keep, *gamma;
  Picture size;
  int64_t rows, channels, rows_of_sample;
  Norm norm;
  const float *weight1, *bias1, *weight, *bias;
  float eps;
  const float *weight2, *bias2;

  Local(void **params, int64_t **shapes)
      : x(IN(0)), keep(IN(1)), gamma(IN(2)), size(PictureOf(shapes[0])), rows(size.batch * size.height * size.width), channels(size.channels),
        rows_of_sample(rows / shapes[1][0]), norm{IN(3), IN(4), IN(5)[0], channels}, weight1(IN(6)), bias1(IN(7)), weight(IN(8)), bias(IN(9)),
        eps(IN(12)[0]), weight2(IN(13)), bias2(IN(14)) {}
};

}  // namespace

// -> the branch's result, and for the gradient norm(x), means and 1 / deviations of its rows, conv1's result, its GELU, that normalised, the batch's mean and
// variance. The running ones change where they lie.
KERNEL(LocalBranch) {
  const Local local(params, shapes);
  const int64_t channels = local.channels, line = local.size.row();
  float *out = OUT(15), *y = OUT(16), *means = OUT(17), *inverses = OUT(18), *z = OUT(19), *g = OUT(20), *h = OUT(21), *mean = OUT(22), *variance = OUT(23);
  NormRows(local.x, local.norm, local.rows, y, means, inverses);
  Convolve(y, local.size, local.size, local.weight1, local.bias1, z, [=](int64_t r) {
#pragma omp simd
    for (int64_t i = r * line; i < (r + 1) * line; ++i) g[i] = Gelu(z[i]);
  });
  Statistics(g, local.rows, channels, IN(12)[1], OUT(10), OUT(11), mean, variance);
  Normalise(g, local.weight, local.bias, mean, variance, local.eps, local.rows, channels, h);
  Convolve(h, local.size, local.size, local.weight2, local.bias2, out, [&](int64_t r) {
    const float *gamma = local.gamma;
    for (int64_t pixel = r * local.size.width; pixel < (r + 1) * local.size.width; ++pixel) {
      const float factor = local.keep[pixel / local.rows_of_sample], *from = local.x + pixel * channels;
      float *to = out + pixel * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) to[c] = from[c] + factor * gamma[c] * to[c];
    }
  });
  return 0;
}

// the inputs, with the batch's mean and variance for the running ones; what was kept, the result's gradient
// -> the gradients of all but keep, eps, these and numbers; two tensors like x to work with
KERNEL(LocalBranchGrad) {
  const Local local(params, shapes);
  const int64_t channels = local.channels, rows = local.rows;
  const float *y = IN(15), *means = IN(16), *inverses = IN(17), *z = IN(18), *g = IN(19), *h = IN(20), *dout = IN(21);
  float *dx = OUT(22), *dgamma = OUT(23), *dnorm = OUT(24), *dnorm_bias = OUT(25), *dweight1 = OUT(26), *dbias1 = OUT(27), *dweight = OUT(28), *dbias = OUT(29);
  float *dweight2 = OUT(30), *dbias2 = OUT(31), *d = OUT(32), *e = OUT(33);
  const float *keep = local.keep, *gamma = local.gamma;
  Rows(rows, channels, [=, &local](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float factor = keep[r / local.rows_of_sample];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) d[r * channels + c] = factor * dout[r * channels + c];
    }
  });
  // gamma is moved into the weights: with G the gradient that these have without it, its own is the sum of weight G
  std::vector<float> scaled(local.weight2, local.weight2 + 9 * channels);
  for (int64_t i = 0; i < 9 * channels; ++i) scaled[i] *= gamma[i / 9];
  ConvolveGrad(h, local.size, local.size, scaled.data(), d, e, dweight2, dbias2);
  for (int64_t c = 0; c < channels; ++c) {
    float sum = local.bias2[c] * dbias2[c];
    for (int64_t i = 9 * c; i < 9 * (c + 1); ++i) {
      sum += local.weight2[i] * dweight2[i];
      dweight2[i] *= gamma[c];
    }
    dgamma[c] = sum;
    dbias2[c] *= gamma[c];
  }
  NormaliseGrad(g, local.weight, IN(10), IN(11), local.eps, e, rows, channels, e, dweight, dbias, [=](int64_t r) {
#pragma omp simd
    for (int64_t i = r * channels; i < (r + 1) * channels; ++i) e[i] *= GeluSlope(z[i]);
  });
  ConvolveGrad(y, local.size, local.size, local.weight1, e, d, dweight1, dbias1);
  NormRowsGrad(local.x, local.norm.weight, means, inverses, d, dout, rows, channels, dx, dnorm, dnorm_bias);
  return 0;
}

// ---- pictures ----

namespace {

// uint8 pictures (B, H, W, C), times a factor and plus an offset a channel
struct RawPictures {
  const uint8_t *x;
  int64_t batch, height, width, channels, line;
  std::vector<float> factors, offsets;  // for each value of a row of pixels

  RawPictures(void **params, int64_t **shapes)
      : x(static_cast<const uint8_t *>(params[0])), batch(shapes[0][0]), height(shapes[0][1]), width(shapes[0][2]), channels(shapes[0][3]),
        line(width * channels), factors(line), offsets(line) {
    for (int64_t i = 0; i < line; ++i) {
      factors[i] = IN(1)[i % channels];
      offsets[i] = IN(2)[i % channels];
    }
  }

  // row y of picture b -> (W, C)
  void Row(int64_t b, int64_t y, float *to) const {
    const uint8_t *from = x + (b * height + y) * line;
    const float *factor = factors.data(), *offset = offsets.data();
#pragma omp simd
    for (int64_t i = 0; i < line; ++i) to[i] = from[i] * factor[i] + offset[i];
  }

  // body(b, y, where its row y stands in the first of the C planes of a (B, C, H, W))
  template <typename Body>
  void Each(float *pictures, const Body &body) const {
    Rows(batch * height, line * 2, [&](int64_t first, int64_t last, int) {
      for (int64_t r = first; r < last; ++r) body(r / height, r % height, pictures + (r / height * channels * height + r % height) * width);
    });
  }
};

}  // namespace

// uint8 x (B, H, W, C), factor (C,), offset (C,) -> x factor + offset (B, C, H, W)
KERNEL(Pixels) {
  const RawPictures pictures(params, shapes);
  const int64_t channels = pictures.channels, width = pictures.width, plane = pictures.height * width;
  pictures.Each(OUT(3), [&](int64_t b, int64_t y, float *to) {
    float *line = Scratch(0, pictures.line);
    pictures.Row(b, y, line);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < width; ++i) to[c * plane + i] = line[i * channels + c];
  });
  return 0;
}

// and noise (H, W, C), which fills each picture's box, int32 boxes (B, 4): top, bottom, left, right; and share (H, W, 1), that of a picture's own pixels
// where it is mixed with the one as far from the batch's end as it is from the start
KERNEL(MixedPixels) {
  const RawPictures pictures(params, shapes);
  const float *noise = IN(3), *share = IN(5);
  const int32_t *boxes = static_cast<const int32_t *>(params[4]);
  const int64_t channels = pictures.channels, width = pictures.width, plane = pictures.height * width;
  const auto erased = [&](int64_t b, int64_t y, float *to) {
    pictures.Row(b, y, to);
    const int32_t *box = boxes + b * 4;
    if (y < box[0] || y >= box[1]) return;
    for (int64_t i = box[2] * channels; i < box[3] * channels; ++i) to[i] = noise[y * pictures.line + i];
  };
  pictures.Each(OUT(6), [&](int64_t b, int64_t y, float *to) {
    float *line = Scratch(0, pictures.line), *other = Scratch(1, pictures.line);
    erased(b, y, line);
    erased(pictures.batch - 1 - b, y, other);
    const float *own = share + y * width;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < width; ++i) to[c * plane + i] = line[i * channels + c] * own[i] + other[i * channels + c] * (1.0f - own[i]);
  });
  return 0;
}

// x (B, C, H, W) -> (B, H, W, C)
KERNEL(ChannelsLast) {
  const Picture out = PictureOf(shapes[1]);
  const float *x = IN(0);
  float *y = OUT(1);
  Rows(out.batch * out.height, out.row() * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *from = x + (r / out.height * out.channels * out.height + r % out.height) * out.width;
      for (int64_t c = 0; c < out.channels; ++c)
        for (int64_t i = 0; i < out.width; ++i) y[r * out.row() + i * out.channels + c] = from[c * out.height * out.width + i];
    }
  });
  return 0;
}

namespace {

// the values of a row that are not zero, as many for each row: where they begin, and what they are, the first ones of all rows, the second ones, ...
struct Window {
  int64_t count = 1;
  std::vector<int32_t> first;
  std::vector<float> values;
  Window(const float *matrix, int64_t rows, int64_t columns) : first(rows) {
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

}  // namespace

// x (B, C, H, W), rows (H', H), columns (W', W), matrices with few values that are not zero -> rows x columns^T (B, C, H', W')
KERNEL(Resize) {
  const int64_t planes = shapes[0][0] * shapes[0][1], height = shapes[0][2], width = shapes[0][3], new_height = shapes[1][0], new_width = shapes[2][0];
  const float *x = IN(0);
  float *y = OUT(3);
  const Window down(IN(1), new_height, height), across(IN(2), new_width, width);
  Rows(planes * new_height, new_width * (down.count + across.count), [&](int64_t first, int64_t last, int) {
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
  return 0;
}
