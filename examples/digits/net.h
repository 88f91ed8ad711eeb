#pragma once

#include <torch/torch.h>

namespace digits {

/// Two convolutions over 8 x 8 pixels, one pooling, one linear layer: 9,930 parameters.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    register_module("conv1", conv1);
    register_module("conv2", conv2);
    register_module("classify", classify);
  }

  /// (n, 1, 8, 8) pixels -> (n, 10) logits
  at::Tensor forward(at::Tensor x) {
    x = torch::relu(conv1(x));
    x = torch::relu(conv2(x));
    return classify(torch::max_pool2d(x, 2).flatten(1));
  }

  torch::nn::Conv2d conv1{torch::nn::Conv2dOptions(1, 16, 3).padding(1)};
  torch::nn::Conv2d conv2{torch::nn::Conv2dOptions(16, 32, 3).padding(1)};
  torch::nn::Linear classify{32 * 4 * 4, 10};
};
TORCH_MODULE(Net);

}  // namespace digits
