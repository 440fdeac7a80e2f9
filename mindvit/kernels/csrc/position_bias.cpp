// CrossFormer's dynamic position bias: a small network gives a bias for each head and offset of two
// tokens, and every pair of a group's tokens takes that of its offset.

#include <algorithm>
#include <vector>

#include "gemm.h"
#include "kernel.h"
#include "layer_norm.h"
#include "parallel.h"

using namespace mindvit;

namespace {

constexpr int kLayers = 3;

// A layer: LayerNorm, ReLU, then a product with weight (outputs, hidden)
struct BiasLayer {
  const Input norm_weight, norm_bias, weight, bias;
  explicit BiasLayer(Args &args)
      : norm_weight(args.in()), norm_bias(args.in()), weight(args.in()), bias(args.in()) {}
};

struct BiasLayerGrads {
  const Output norm_weight, norm_bias, weight, bias;
  explicit BiasLayerGrads(Args &args)
      : norm_weight(args.out()), norm_bias(args.out()), weight(args.out()), bias(args.out()) {}
};

// What a layer was given, and its statistics, and what its product was given
struct BiasLayerValues {
  std::vector<float> x, means, inverses, positive;
  BiasLayerValues(int64_t rows, int64_t hidden)
      : x(rows * hidden), means(rows), inverses(rows), positive(rows * hidden) {}
};

// offsets (rows, 2), pairs (G * G,) int32: the offset of each, eps (1,), the first product's weight
// (hidden, 2) and bias, the layers
struct PositionNetwork {
  const Input offsets;
  const Tensor<const int32_t> pairs;
  const Input eps, weight, bias;
  const BiasLayer layers[kLayers];
  const int64_t rows, hidden, heads;
  std::vector<BiasLayerValues> between;
  std::vector<float> table;  // rows x heads

  explicit PositionNetwork(Args &args)
      : offsets(args.in()),
        pairs(args.next<const int32_t>()),
        eps(args.in()),
        weight(args.in()),
        bias(args.in()),
        layers{BiasLayer(args), BiasLayer(args), BiasLayer(args)},
        rows(offsets.dim(0)),
        hidden(weight.dim(0)),
        heads(layers[kLayers - 1].weight.dim(0)),
        between(kLayers, BiasLayerValues(rows, hidden)),
        table(rows * heads) {
    Product(offsets, weight, bias, {rows, 2, hidden}, between[0].x.data());
    for (int l = 0; l < kLayers; ++l) {
      const BiasLayer &layer = layers[l];
      BiasLayerValues &at = between[l];
      float *positive = at.positive.data();
      NormRows(at.x.data(), {layer.norm_weight, layer.norm_bias, eps[0], hidden}, rows, positive,
               at.means.data(), at.inverses.data());
      // what is no number stays so
      for (float &value : at.positive) value = value > 0 ? value : value < 0 ? 0 : value;
      Product(positive, layer.weight, layer.bias, SizeOf(l),
              l + 1 < kLayers ? between[l + 1].x.data() : table.data());
    }
  }

  ProductSizes SizeOf(int l) const { return {rows, hidden, l + 1 < kLayers ? hidden : heads}; }
};

}  // namespace

// -> bias (heads, G, G)
KERNEL(PositionBias) {
  const PositionNetwork network(args);
  const Output y = args.out();
  const int64_t count = network.pairs.size(), heads = network.heads;
  Rows(heads, count, [&](int64_t first, int64_t last, int) {
    for (int64_t h = first; h < last; ++h)
      for (int64_t p = 0; p < count; ++p)
        y[h * count + p] = network.table[network.pairs[p] * heads + h];
  });
}

// -> the gradients of all weights
KERNEL(PositionBiasGrad) {
  const PositionNetwork network(args);
  const Input dy = args.in();
  const Output dweight = args.out(), dbias = args.out();
  const BiasLayerGrads grads[kLayers] = {BiasLayerGrads(args), BiasLayerGrads(args),
                                         BiasLayerGrads(args)};
  const int64_t count = network.pairs.size(), heads = network.heads, rows = network.rows,
                hidden = network.hidden;
  std::vector<float> gradient(rows * heads, 0.0f), inner(rows * hidden);
  const std::vector<float> nothing(rows * hidden, 0.0f);
  Rows(heads, count, [&](int64_t first, int64_t last, int) {
    for (int64_t h = first; h < last; ++h)
      for (int64_t p = 0; p < count; ++p)
        gradient[network.pairs[p] * heads + h] += dy[h * count + p];
  });
  for (int l = kLayers - 1; l >= 0; --l) {
    const BiasLayer &layer = network.layers[l];
    const BiasLayerValues &at = network.between[l];
    WeightGrad(at.positive.data(), gradient.data(), network.SizeOf(l), grads[l].weight,
               grads[l].bias);
    InputGrad(layer.weight, gradient.data(), network.SizeOf(l), inner.data());
    for (int64_t i = 0; i < rows * hidden; ++i)
      if (at.positive[i] == 0) inner[i] = 0;
    gradient.resize(rows * hidden);
    NormRowsGrad(at.x.data(), layer.norm_weight, {at.means.data(), at.inverses.data()},
                 inner.data(), nothing.data(), rows, hidden,
                 {gradient.data(), grads[l].norm_weight, grads[l].norm_bias});
  }
  WeightGrad(network.offsets, gradient.data(), {rows, 2, hidden}, dweight, dbias);
}
