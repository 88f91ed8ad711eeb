#pragma once

#include <torch/torch.h>

#include <stdexcept>
#include <string>

#include "benchmarks/train/settings.h"
#include "examples/digits/data.h"
#include "examples/digits/net.h"

namespace benchmark_train {

/// 784-256-256-10 with ReLU.
struct MlpImpl : torch::nn::Module {
  MlpImpl() {
    register_module("first", first);
    register_module("second", second);
    register_module("third", third);
  }
  at::Tensor forward(const at::Tensor& x) { return third(torch::relu(second(torch::relu(first(x))))); }
  torch::nn::Linear first{784, 256}, second{256, 256}, third{256, 10};
};
TORCH_MODULE(Mlp);

/// Two 3 x 3 convolutions (16 and 32 channels) on 8 x 8 pixels, a pooling by 2, a linear layer.
struct ConvImpl : torch::nn::Module {
  ConvImpl() {
    register_module("first", first);
    register_module("second", second);
    register_module("classify", classify);
  }
  at::Tensor forward(const at::Tensor& x) {
    return classify(torch::max_pool2d(torch::relu(second(torch::relu(first(x)))), 2).flatten(1));
  }
  torch::nn::Conv2d first{torch::nn::Conv2dOptions(1, 16, 3).padding(1)};
  torch::nn::Conv2d second{torch::nn::Conv2dOptions(16, 32, 3).padding(1)};
  torch::nn::Linear classify{512, 10};
};
TORCH_MODULE(Conv);

struct Samples {
  at::Tensor inputs, labels;
};

/// 64 batches of noise.
inline Samples noise(int64_t batch_size, std::vector<int64_t> shape) {
  shape.insert(shape.begin(), 64 * batch_size);
  const at::Tensor inputs = torch::randn(shape);  // first, then the labels: the peer draws in this order too
  return {inputs, torch::randint(0, 10, {64 * batch_size}, torch::kLong)};
}

/// Calls `loop(net, samples)` with the task's data and, drawn after them, its net.
template <class Loop>
auto with_task(const Settings& settings, const Loop& loop) {
  torch::manual_seed(settings.seed);
  if (settings.task == "mlp") {
    const Samples samples = noise(settings.batch_size, {784});
    return loop(Mlp(), samples);
  }
  if (settings.task == "conv") {
    const Samples samples = noise(settings.batch_size, {1, 8, 8});
    return loop(Conv(), samples);
  }
  if (settings.task == "digits") {
    const auto [train, test] = digits::hold_out_every_fifth(digits::read(ACCELERATE_SOURCE_DIR "/data/digits.csv.gz"));
    return loop(digits::Net(), Samples{train.images, train.labels});
  }
  throw std::invalid_argument("unknown task: got " + settings.task + ", expected mlp, conv or digits");
}

}  // namespace benchmark_train
