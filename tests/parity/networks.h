#pragma once

#include <torch/torch.h>

#include <set>
#include <string>
#include <utility>

#include "tests/parity/fixtures.h"

// The networks of original/problem.py, under the same names.
namespace parity {

struct MlpImpl : torch::nn::Module {
  MlpImpl() {
    hidden = register_module("hidden", torch::nn::Linear(6, 8));
    output = register_module("output", torch::nn::Linear(8, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return output(torch::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr}, output{nullptr};
};
TORCH_MODULE(Mlp);

struct ConvolutionImpl : torch::nn::Module {
  ConvolutionImpl() {
    convolution = register_module("convolution", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 3, 3).bias(false)));
    norm = register_module("norm", torch::nn::BatchNorm2d(3));
    output = register_module("output", torch::nn::Linear(27, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return output(torch::tanh(norm(convolution(x))).flatten(1)); }
  torch::nn::Conv2d convolution{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::Linear output{nullptr};
};
TORCH_MODULE(Convolution);

struct EncoderImpl : torch::nn::Module {
  EncoderImpl() { layer = register_module("layer", torch::nn::Linear(6, 8)); }
  at::Tensor forward(const at::Tensor& x) { return torch::tanh(layer(x)); }
  torch::nn::Linear layer{nullptr};
};
TORCH_MODULE(Encoder);

struct HeadImpl : torch::nn::Module {
  HeadImpl() { layer = register_module("layer", torch::nn::Linear(8, 3)); }
  at::Tensor forward(const at::Tensor& x) { return layer(x); }
  torch::nn::Linear layer{nullptr};
};
TORCH_MODULE(Head);

struct DiscriminatorImpl : torch::nn::Module {
  DiscriminatorImpl() {
    hidden = register_module("hidden", torch::nn::Linear(3, 8));
    output = register_module("output", torch::nn::Linear(8, 1));
  }
  at::Tensor forward(const at::Tensor& x) { return output(torch::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr}, output{nullptr};
};
TORCH_MODULE(Discriminator);

struct WeightImpl : torch::nn::Module {
  explicit WeightImpl(at::Tensor shared) { weight = register_parameter("weight", std::move(shared)); }
  at::Tensor forward(const at::Tensor& x) { return x.matmul(weight.t()); }
  at::Tensor weight;
};
TORCH_MODULE(Weight);

/// Two layers with one weight, which has both their names.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    first = register_module("first", Weight(torch::zeros({6, 6})));
    second = register_module("second", Weight(first->weight));
    output = register_module("output", torch::nn::Linear(6, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return output(torch::tanh(second(torch::tanh(first(x))))); }
  Weight first{nullptr}, second{nullptr};
  torch::nn::Linear output{nullptr};
};
TORCH_MODULE(Tied);

/// A fresh network of that type holding the initial parameters that problem.json keeps under `name`.
template <class Holder>
Holder build(const Json& problem, const std::string& name, at::ScalarType dtype) {
  Holder network;
  network->to(dtype);
  const torch::NoGradGuard no_grad;
  std::set<const void*> copied;  // problem.json keeps a tied weight under its first name
  for (auto& entry : network->named_parameters()) {
    if (!copied.insert(entry.value().unsafeGetTensorImpl()).second) continue;
    entry.value().copy_(array(problem.at("models").at(name).at(entry.key()), dtype));
  }
  return network;
}

}  // namespace parity
