// Kernels for CPUs where the framework's stay far from what memory allows: GELU, softmax, LayerNorm, depth-wise 3x3, batch statistics, im2col.
//
// MindSpore calls them by name (ops.Custom, func_type="aot"): params holds the inputs, then the outputs; all are float32 and contiguous.
// A matrix is rows x channels, channels innermost; pictures are B x H x W x C. Loops over channels are what the compiler vectorises.

#include <dlfcn.h>
#include <link.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
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
class Pool {
 public:
  static Pool &Get() {
    static Pool *pool = new Pool();  // never destroyed: threads outlive static destructors
    return *pool;
  }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // body(part, parts) for part in [0, parts), on several threads
  void Run(int parts, const std::function<void(int, int)> &body) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (parts <= 1 || helpers_.empty() || !turn.owns_lock()) {
      for (int part = 0; part < parts; ++part) body(part, parts);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      parts_ = parts;
      next_ = 0;
      left_ = parts;
      ++job_;
    }
    start_.notify_all();
    Work();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0 && working_ == 0; });
    body_ = nullptr;
  }

 private:
  Pool() {
    for (int i = 1; i < Cores(); ++i) helpers_.emplace_back([this] { Loop(); });
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
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, [&] { return job_ != seen; });
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

  std::vector<std::thread> helpers_;
  std::mutex turn_, mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int, int)> *body_ = nullptr;
  int parts_ = 0, next_ = 0, left_ = 0, working_ = 0;
  uint64_t job_ = 0;
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

// exp within 2 ulp; 0 below -87.3. NaN stays NaN.
inline float Exp(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.3f ? 88.3f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

// Phi(x), the normal distribution function, given e = exp(-x^2 / 2). Phi(-|x|) = erfc(|x| / sqrt 2) / 2 with the Chebyshev fit of Numerical Recipes
// (fractional error below 1.2e-7 everywhere), so the tail keeps its digits.
inline float Phi(float x, float e) {
  const float z = std::fabs(x) * 0.70710678118f;
  const float t = 1.0f / (1.0f + 0.5f * z);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  p = p * t - 1.26551223f;
  const float half = 0.5f * t * e * Exp(p);
  return x > 0 ? 1.0f - half : half;
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

// Sums over rows, gathered by threads each in a line of its own, then added up in the threads' order.
class Sums {
 public:
  Sums(int64_t rows, int64_t width, int64_t columns) : columns_(columns), parts_(PartsFor(rows * width, rows)), lines_(parts_ * columns, 0.0f) {}
  float *line(int part) { return lines_.data() + part * columns_; }
  void Write(float *out) const {
    for (int64_t c = 0; c < columns_; ++c) {
      double sum = 0;
      for (int part = 0; part < parts_; ++part) sum += lines_[part * columns_ + c];
      out[c] = static_cast<float>(sum);
    }
  }

 private:
  int64_t columns_;
  int parts_;
  std::vector<float> lines_;
};

constexpr int64_t kBlock = 64;  // rows whose sum is taken by itself, so that long sums lose no digits

}  // namespace

#define KERNEL(name) extern "C" int name(int, void **params, int *ndims, int64_t **shapes, const char **, void *, void *)
#define IN(i) static_cast<const float *>(params[i])
#define OUT(i) static_cast<float *>(params[i])

// ---- GELU(x + bias): x (M, C), bias (C,) -> y (M, C) ----

KERNEL(BiasGelu) {
  const float *x = IN(0), *bias = IN(1);
  float *y = OUT(2);
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  Rows(rows, channels * 4, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0; c < channels; ++c) y[r * channels + c] = Gelu(x[r * channels + c] + bias[c]);
  });
  return 0;
}

// x, bias, dy -> dx, dbias
KERNEL(BiasGeluGrad) {
  const float *x = IN(0), *bias = IN(1), *dy = IN(2);
  float *dx = OUT(3);
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  Sums sums(rows, channels * 4, channels);
  Rows(rows, channels * 4, [&, x, bias, dy, dx](int64_t first, int64_t last, int part) {
    float *total = sums.line(part);
    std::vector<float> block(channels);
    for (int64_t start = first; start < last; start += kBlock) {
      std::fill(block.begin(), block.end(), 0.0f);
      float *sum = block.data();
      for (int64_t r = start; r < std::min(last, start + kBlock); ++r)
        for (int64_t c = 0; c < channels; ++c) {
          const float d = dy[r * channels + c] * GeluSlope(x[r * channels + c] + bias[c]);
          dx[r * channels + c] = d;
          sum[c] += d;
        }
      for (int64_t c = 0; c < channels; ++c) total[c] += sum[c];
    }
  });
  sums.Write(OUT(4));
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

// ---- softmax(scale * x) over the last axis: x (..., N), scale (1,) -> y ----

KERNEL(ScaledSoftmax) {
  const float *x = IN(0);
  const float scale = IN(1)[0];
  float *y = OUT(2);
  const int64_t width = shapes[0][ndims[0] - 1], rows = Count(ndims[0], shapes[0]) / width;
  Rows(rows, width * 2, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *in = x + r * width;
      float *out = y + r * width;
      float most = scale * in[0];
#pragma omp simd reduction(max : most)
      for (int64_t i = 0; i < width; ++i) most = std::max(most, scale * in[i]);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) {
        const float e = Exp(scale * in[i] - most);
        out[i] = e;
        sum += e;
      }
      const float share = 1.0f / sum;
      for (int64_t i = 0; i < width; ++i) out[i] *= share;
    }
  });
  return 0;
}

// y, scale, dy -> dx
KERNEL(ScaledSoftmaxGrad) {
  const float *y = IN(0), *dy = IN(2);
  const float scale = IN(1)[0];
  float *dx = OUT(3);
  const int64_t width = shapes[0][ndims[0] - 1], rows = Count(ndims[0], shapes[0]) / width;
  Rows(rows, width, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *out = y + r * width, *d = dy + r * width;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < width; ++i) sum += out[i] * d[i];
      for (int64_t i = 0; i < width; ++i) dx[r * width + i] = scale * out[i] * (d[i] - sum);
    }
  });
  return 0;
}

// ---- LayerNorm over the last axis: x (..., C), weight (C,), bias (C,), eps (1,) -> y, mean (M,), 1 / deviation (M,) ----

KERNEL(LayerNormForward) {
  const float *x = IN(0), *weight = IN(1), *bias = IN(2);
  const float eps = IN(3)[0];
  float *y = OUT(4), *means = OUT(5), *inverses = OUT(6);
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  Rows(rows, channels, [=](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      const float *in = x + r * channels;
      float *out = y + r * channels;
      float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < channels; ++c) sum += in[c];
      const float mean = sum / channels;
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < channels; ++c) squares += (in[c] - mean) * (in[c] - mean);
      const float inverse = 1.0f / std::sqrt(squares / channels + eps);
      for (int64_t c = 0; c < channels; ++c) out[c] = (in[c] - mean) * inverse * weight[c] + bias[c];
      means[r] = mean;
      inverses[r] = inverse;
    }
  });
  return 0;
}

// x, weight, mean, 1 / deviation, dy -> dx, dweight, dbias
KERNEL(LayerNormGrad) {
  const float *x = IN(0), *weight = IN(1), *means = IN(2), *inverses = IN(3), *dy = IN(4);
  float *dx = OUT(5);
  const int64_t channels = shapes[1][0], rows = Count(ndims[0], shapes[0]) / channels;
  Sums sums(rows, channels * 2, 2 * channels);
  Rows(rows, channels * 2, [&, x, weight, means, inverses, dy, dx](int64_t first, int64_t last, int part) {
    float *total = sums.line(part);
    std::vector<float> block(2 * channels);
    for (int64_t start = first; start < last; start += kBlock) {
      std::fill(block.begin(), block.end(), 0.0f);
      float *dweight = block.data(), *dbias = block.data() + channels;
      for (int64_t r = start; r < std::min(last, start + kBlock); ++r) {
        const float *in = x + r * channels, *d = dy + r * channels;
        const float mean = means[r], inverse = inverses[r];
        float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t c = 0; c < channels; ++c) {
          const float g = d[c] * weight[c];
          sum += g;
          dot += g * (in[c] - mean) * inverse;
        }
        sum /= channels;
        dot /= channels;
        for (int64_t c = 0; c < channels; ++c) {
          const float normal = (in[c] - mean) * inverse;
          dx[r * channels + c] = (d[c] * weight[c] - sum - normal * dot) * inverse;
          dweight[c] += d[c] * normal;
          dbias[c] += d[c];
        }
      }
      for (int64_t c = 0; c < 2 * channels; ++c) total[c] += block[c];
    }
  });
  std::vector<float> both(2 * channels);
  sums.Write(both.data());
  std::copy(both.begin(), both.begin() + channels, OUT(6));
  std::copy(both.begin() + channels, both.end(), OUT(7));
  return 0;
}

// ---- attention ----

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

void SoftmaxRow(float *row, int64_t width) {
  float most = row[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < width; ++i) most = std::max(most, row[i]);
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) {
    row[i] = Exp(row[i] - most);
    sum += row[i];
  }
  const float share = 1.0f / sum;
  for (int64_t i = 0; i < width; ++i) row[i] *= share;
}

// dP -> dS in place: P * (dP - sum of P * dP over the row)
void SoftmaxRowGrad(const float *p, float *d, int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; ++i) sum += p[i] * d[i];
  for (int64_t i = 0; i < width; ++i) d[i] = p[i] * (d[i] - sum);
}

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

// weights = softmax(scale q k^T + bias), y = weights v; bias (groups, heads, M, N) or null: sample b of the batch has group b % groups
void Attend(const Side &q, const Side &k, const Side &v, const float *bias, int64_t groups, float scale, int64_t batch, int64_t heads, int64_t depth,
            float *weights, const Grad &y) {
  const int64_t m = q.tokens, n = k.tokens;
  Rows(batch * heads, m * n * 2, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t b = i / heads, h = i % heads;
      float *p = weights + i * m * n;
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
        for (int64_t r = 0; r < m; ++r) SoftmaxRowGrad(p + r * n, d + r * n, n);
        if (add != nullptr)
          for (int64_t i = 0; i < m * n; ++i) add[i] += d[i];
        gemm()('N', 'N', m, depth, n, scale, d, n, k.at(b, h, depth), k.stride, 0.0f, dq.at(b, h, depth), dq.stride);
        gemm()('T', 'N', n, depth, m, scale, d, n, q.at(b, h, depth), q.stride, 0.0f, dk.at(b, h, depth), dk.stride);
      }
    }
  });
}

}  // namespace

extern "C" int HasGemm() { return gemm() != nullptr; }

// qkv (B, N, 3C): queries, keys, values, each C = heads x depth; scale (1,) -> y (B, N, C), weights (B, heads, N, N)
KERNEL(Attention) {
  const int64_t batch = shapes[0][0], tokens = shapes[0][1], width = shapes[0][2], channels = width / 3, heads = shapes[3][1];
  const float *qkv = IN(0);
  Attend({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, nullptr, 1, IN(1)[0], batch, heads, channels / heads,
         OUT(3), {OUT(2), tokens, channels});
  return 0;
}

// qkv, scale, weights, dy -> dqkv
KERNEL(AttentionGrad) {
  const int64_t batch = shapes[0][0], tokens = shapes[0][1], width = shapes[0][2], channels = width / 3, heads = shapes[2][1];
  const float *qkv = IN(0);
  float *d = OUT(4);
  AttendGrad({qkv, tokens, width}, {qkv + channels, tokens, width}, {qkv + 2 * channels, tokens, width}, IN(2), {IN(3), tokens, channels}, batch, IN(1)[0],
             batch, heads, channels / heads, {d, tokens, width}, {d + channels, tokens, width}, {d + 2 * channels, tokens, width}, nullptr);
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
