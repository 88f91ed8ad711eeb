#include "benchmarks/train/models/layers.h"
#include "benchmarks/train/models/models.h"

namespace benchmark_train {
namespace {

struct RmsNormImpl : torch::nn::Module {
  explicit RmsNormImpl(int64_t width) { weight = register_parameter("weight", torch::ones({width})); }
  at::Tensor forward(const at::Tensor& x) { return at::rms_norm(x, weight.sizes(), weight, /*eps=*/1e-5); }
  at::Tensor weight;
};
TORCH_MODULE(RmsNorm);

/// Cosines and sines of the angle of each position and dimension, both (t, d).
struct Rotary {
  at::Tensor cosines, sines;

  Rotary(int64_t positions, int64_t dimensions) {
    const at::Tensor exponents = torch::arange(0, dimensions, 2).to(torch::kFloat) / dimensions;
    const at::Tensor angles =
        torch::outer(torch::arange(positions).to(torch::kFloat), torch::pow(500'000.0, -exponents));
    cosines = torch::cat({angles, angles}, /*dim=*/-1).cos();
    sines = torch::cat({angles, angles}, /*dim=*/-1).sin();
  }

  /// Dimension i is turned against dimension i + d / 2.
  at::Tensor turn(const at::Tensor& x) const {
    const auto halves = x.chunk(2, /*dim=*/-1);
    const int64_t length = x.size(-2);
    return x * cosines.narrow(0, 0, length).to(x.dtype()) +
           torch::cat({-halves[1], halves[0]}, /*dim=*/-1) * sines.narrow(0, 0, length).to(x.dtype());
  }
};

struct LayerImpl : torch::nn::Module {
  LayerImpl(const LlamaShape& shape, c10::Device device)
      : heads(shape.heads),
        pairs(shape.pairs),
        input_norm(shape.width),
        q(linear({shape.width, shape.width}, device, Bias::kNo)),
        k(linear({shape.width, shape.width / shape.heads * shape.pairs}, device, Bias::kNo)),
        v(linear({shape.width, shape.width / shape.heads * shape.pairs}, device, Bias::kNo)),
        o(linear({shape.width, shape.width}, device, Bias::kNo)),
        post_norm(shape.width),
        gate(linear({shape.width, shape.inner}, device, Bias::kNo)),
        up(linear({shape.width, shape.inner}, device, Bias::kNo)),
        down(linear({shape.inner, shape.width}, device, Bias::kNo)) {
    register_module("input_norm", input_norm);
    register_module("q", q);
    register_module("k", k);
    register_module("v", v);
    register_module("o", o);
    register_module("post_norm", post_norm);
    register_module("gate", gate);
    register_module("up", up);
    register_module("down", down);
  }

  at::Tensor forward(at::Tensor x, int64_t samples, const Rotary& rotary) {
    const at::Tensor y = input_norm(x);
    const at::Tensor attended = at::scaled_dot_product_attention(
        rotary.turn(split_heads(q(y), samples, heads)), rotary.turn(split_heads(k(y), samples, pairs)),
        split_heads(v(y), samples, pairs), {}, /*dropout_p=*/0.0, /*is_causal=*/true, /*scale=*/std::nullopt,
        /*enable_gqa=*/true);
    x = x + o(join_heads(attended));
    const at::Tensor z = post_norm(x);
    return x + down(torch::silu(gate(z)) * up(z));
  }

  int64_t heads, pairs;
  RmsNorm input_norm;
  torch::nn::Linear q, k, v, o;
  RmsNorm post_norm;
  torch::nn::Linear gate, up, down;
};
TORCH_MODULE(Layer);

struct Llama final : LossNet {
  Llama(const LlamaShape& shape, c10::Device device, Loss given)
      : loss(given),
        rotary(shape.positions, shape.width / shape.heads),
        embed(embedding({shape.vocabulary, shape.width}, device)),
        norm(shape.width) {
    rotary.cosines = register_buffer("cosines", rotary.cosines);
    rotary.sines = register_buffer("sines", rotary.sines);
    register_module("embed", embed);
    for (int64_t layer = 0; layer < shape.layers; ++layer) layers->push_back(Layer(shape, device));
    register_module("layers", layers);
    register_module("norm", norm);
  }

  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& labels) override {
    at::Tensor x = embed(tokens).flatten(0, 1);
    for (const auto& layer : *layers) x = layer->as<LayerImpl>()->forward(x, tokens.size(0), rotary);
    const at::Tensor logits = torch::nn::functional::linear(norm(x), embed->weight);
    return mean_cross_entropy(logits, labels.flatten(), loss);
  }

  Loss loss;
  Rotary rotary;
  torch::nn::Embedding embed;
  torch::nn::ModuleList layers;
  RmsNorm norm;
};

}  // namespace

std::shared_ptr<LossNet> llama(const LlamaShape& shape, c10::Device device, Loss loss) {
  return std::make_shared<Llama>(shape, device, loss);
}

}  // namespace benchmark_train
