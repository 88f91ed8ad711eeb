#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <variant>

namespace benchmark_train {

/// (n, ...) -> (n, classes) logits; the loop computes the loss.
struct LogitsNet : torch::nn::Module {
  virtual at::Tensor forward(const at::Tensor& inputs) = 0;
};

/// Tokens and labels -> the mean loss, as the models of transformers do: logits over a vocabulary stay inside.
struct LossNet : torch::nn::Module {
  virtual at::Tensor forward(const at::Tensor& tokens, const at::Tensor& labels) = 0;
};

/// Who computes the loss of a language model.
enum class Loss {
  kPlain,  ///< torch::nn::functional::cross_entropy, over float32 where nothing but the user sees to that
  kFused,  ///< accelerate::nn::functional::cross_entropy
};
/// The mean over rows of logits. LibTorch's function over 16-bit logits is one of 16 bits, unless autocast is on: who
/// has bfloat16 parameters converts.
at::Tensor mean_cross_entropy(const at::Tensor& logits, const at::Tensor& labels, Loss loss = Loss::kPlain);

using AnyNet = std::variant<std::shared_ptr<LogitsNet>, std::shared_ptr<LossNet>>;

/// Moves the net to the device and draws its parameters there in their order, from `seed` anew: matrices from a normal
/// distribution of standard deviation 0.02, biases 0, other vectors 1.
void draw(torch::nn::Module& net, c10::Device device, uint64_t seed);

// benchmarks/peer/models.py has the same nets with the same names in the same order.

/// 784-256-256-10 with ReLU.
std::shared_ptr<LogitsNet> mlp();
/// Two 3 x 3 convolutions (16 and 32 channels) on 8 x 8 pixels, a pooling by 2, a linear layer.
std::shared_ptr<LogitsNet> conv();
/// The net of examples/digits.
std::shared_ptr<LogitsNet> digits_net();

struct ResnetShape {
  int64_t width = 64;  ///< channels of the first of four stages
  int64_t classes = 10;
};
/// ResNet-18 as in torchvision, but for a first layer of 3 x 3 without pooling, as for images of 32 x 32;
/// channels-last. Source: He et al. 2015, section 4.2 for the first layer.
std::shared_ptr<LogitsNet> resnet18(const ResnetShape& shape, c10::Device device);

// The following have no values before `draw`. Inside, tokens are rows, (n * t, width): with three dimensions
// torch::nn::Linear adds its bias in a pass of its own.

struct Gpt2Shape {
  int64_t vocabulary = 50'304, positions = 1024, width = 768, layers = 12, heads = 12;
};
/// GPT-2 with a tied head; the vocabulary is padded to a multiple of 128. Source: Radford et al. 2019.
std::shared_ptr<LossNet> gpt2(const Gpt2Shape& shape, c10::Device device, Loss loss = Loss::kPlain);

struct BertShape {
  int64_t vocabulary = 30'522, positions = 512, width = 768, layers = 12, heads = 12, classes = 2;
  double dropout = 0.1;
};
/// BERT with a classifier on the first token; sequences are full, so there is no mask. Source: Devlin et al. 2018.
std::shared_ptr<LossNet> bert(const BertShape& shape, c10::Device device);

struct LlamaShape {
  int64_t vocabulary = 128'256, positions = 2048, width = 2048, inner = 8192, layers = 16, heads = 32, pairs = 8;
};
/// The shape of Llama 3.2 1B: RMSNorm, rotary positions (theta 500,000, not rescaled), attention in which `pairs` heads
/// of keys and values serve all queries, SwiGLU, a tied head.
std::shared_ptr<LossNet> llama(const LlamaShape& shape, c10::Device device, Loss loss = Loss::kPlain);

}  // namespace benchmark_train
