#include "benchmarks/train/models/layers.h"
#include "benchmarks/train/models/models.h"

namespace benchmark_train {
namespace {

struct BlockImpl : torch::nn::Module {
  BlockImpl(const Gpt2Shape& shape, c10::Device device)
      : heads(shape.heads),
        ln_1(layer_norm(shape.width, 1e-5)),
        qkv(linear({shape.width, 3 * shape.width}, device)),
        proj(linear({shape.width, shape.width}, device)),
        ln_2(layer_norm(shape.width, 1e-5)),
        fc(linear({shape.width, 4 * shape.width}, device)),
        out(linear({4 * shape.width, shape.width}, device)) {
    register_module("ln_1", ln_1);
    register_module("qkv", qkv);
    register_module("proj", proj);
    register_module("ln_2", ln_2);
    register_module("fc", fc);
    register_module("out", out);
  }

  at::Tensor forward(at::Tensor x, int64_t samples) {
    const auto parts = qkv(ln_1(x)).chunk(3, /*dim=*/-1);
    const at::Tensor attended = at::scaled_dot_product_attention(
        split_heads(parts[0], samples, heads), split_heads(parts[1], samples, heads),
        split_heads(parts[2], samples, heads), {}, /*dropout_p=*/0.0, /*is_causal=*/true);
    x = x + proj(join_heads(attended));
    return x + out(torch::gelu(fc(ln_2(x)), "tanh"));
  }

  int64_t heads;
  torch::nn::LayerNorm ln_1;
  torch::nn::Linear qkv, proj;
  torch::nn::LayerNorm ln_2;
  torch::nn::Linear fc, out;
};
TORCH_MODULE(Block);

struct Gpt2 final : LossNet {
  Gpt2(const Gpt2Shape& shape, c10::Device device, Loss given)
      : loss(given),
        wte(embedding({shape.vocabulary, shape.width}, device)),
        wpe(embedding({shape.positions, shape.width}, device)),
        ln_f(layer_norm(shape.width, 1e-5)) {
    register_module("wte", wte);
    register_module("wpe", wpe);
    for (int64_t layer = 0; layer < shape.layers; ++layer) h->push_back(Block(shape, device));
    register_module("h", h);
    register_module("ln_f", ln_f);
  }

  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& labels) override {
    at::Tensor x = (wte(tokens) + wpe->weight.narrow(0, 0, tokens.size(1))).flatten(0, 1);
    for (const auto& block : *h) x = block->as<BlockImpl>()->forward(x, tokens.size(0));
    const at::Tensor logits = torch::nn::functional::linear(ln_f(x), wte->weight);
    return mean_cross_entropy(logits, labels.flatten(), loss);
  }

  Loss loss;
  torch::nn::Embedding wte, wpe;
  torch::nn::ModuleList h;
  torch::nn::LayerNorm ln_f;
};

}  // namespace

std::shared_ptr<LossNet> gpt2(const Gpt2Shape& shape, c10::Device device, Loss loss) {
  return std::make_shared<Gpt2>(shape, device, loss);
}

}  // namespace benchmark_train
