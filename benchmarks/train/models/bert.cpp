#include "benchmarks/train/models/layers.h"
#include "benchmarks/train/models/models.h"

namespace benchmark_train {
namespace {

constexpr double kEps = 1e-12;

struct LayerImpl : torch::nn::Module {
  LayerImpl(const BertShape& shape, c10::Device device)
      : heads(shape.heads),
        drop(shape.dropout),
        query(linear({shape.width, shape.width}, device)),
        key(linear({shape.width, shape.width}, device)),
        value(linear({shape.width, shape.width}, device)),
        attended(linear({shape.width, shape.width}, device)),
        attended_norm(layer_norm(shape.width, kEps)),
        intermediate(linear({shape.width, 4 * shape.width}, device)),
        output(linear({4 * shape.width, shape.width}, device)),
        output_norm(layer_norm(shape.width, kEps)) {
    register_module("query", query);
    register_module("key", key);
    register_module("value", value);
    register_module("attended", attended);
    register_module("attended_norm", attended_norm);
    register_module("intermediate", intermediate);
    register_module("output", output);
    register_module("output_norm", output_norm);
  }

  at::Tensor forward(const at::Tensor& x, int64_t samples) {
    const at::Tensor heads_of_values =
        at::scaled_dot_product_attention(split_heads(query(x), samples, heads), split_heads(key(x), samples, heads),
                                         split_heads(value(x), samples, heads), {}, is_training() ? drop : 0.0);
    const at::Tensor y = attended_norm(torch::dropout(attended(join_heads(heads_of_values)), drop, is_training()) + x);
    return output_norm(torch::dropout(output(torch::gelu(intermediate(y))), drop, is_training()) + y);
  }

  int64_t heads;
  double drop;
  torch::nn::Linear query, key, value, attended;
  torch::nn::LayerNorm attended_norm;
  torch::nn::Linear intermediate, output;
  torch::nn::LayerNorm output_norm;
};
TORCH_MODULE(Layer);

struct Bert final : LossNet {
  Bert(const BertShape& shape, c10::Device device)
      : drop(shape.dropout),
        words(embedding({shape.vocabulary, shape.width}, device)),
        positions(embedding({shape.positions, shape.width}, device)),
        token_types(embedding({2, shape.width}, device)),
        norm(layer_norm(shape.width, kEps)),
        pooler(linear({shape.width, shape.width}, device)),
        classifier(linear({shape.width, shape.classes}, device)) {
    register_module("words", words);
    register_module("positions", positions);
    register_module("token_types", token_types);
    register_module("norm", norm);
    for (int64_t layer = 0; layer < shape.layers; ++layer) layers->push_back(Layer(shape, device));
    register_module("layers", layers);
    register_module("pooler", pooler);
    register_module("classifier", classifier);
  }

  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& labels) override {
    at::Tensor x = words(tokens) + positions->weight.narrow(0, 0, tokens.size(1)) + token_types->weight.select(0, 0);
    x = torch::dropout(norm(x.flatten(0, 1)), drop, is_training());
    for (const auto& layer : *layers) x = layer->as<LayerImpl>()->forward(x, tokens.size(0));
    const at::Tensor pooled = torch::tanh(pooler(x.view({tokens.size(0), tokens.size(1), -1}).select(1, 0)));
    return mean_cross_entropy(classifier(torch::dropout(pooled, drop, is_training())), labels);
  }

  double drop;
  torch::nn::Embedding words, positions, token_types;
  torch::nn::LayerNorm norm;
  torch::nn::ModuleList layers;
  torch::nn::Linear pooler, classifier;
};

}  // namespace

std::shared_ptr<LossNet> bert(const BertShape& shape, c10::Device device) {
  return std::make_shared<Bert>(shape, device);
}

}  // namespace benchmark_train
