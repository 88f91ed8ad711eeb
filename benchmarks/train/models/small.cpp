#include "benchmarks/train/models/models.h"
#include "examples/digits/net.h"

namespace benchmark_train {
namespace {

struct Mlp final : LogitsNet {
  Mlp() {
    register_module("first", first);
    register_module("second", second);
    register_module("third", third);
  }
  at::Tensor forward(const at::Tensor& x) override { return third(torch::relu(second(torch::relu(first(x))))); }
  torch::nn::Linear first{784, 256}, second{256, 256}, third{256, 10};
};

struct Conv final : LogitsNet {
  Conv() {
    register_module("first", first);
    register_module("second", second);
    register_module("classify", classify);
  }
  at::Tensor forward(const at::Tensor& x) override {
    return classify(torch::max_pool2d(torch::relu(second(torch::relu(first(x)))), 2).flatten(1));
  }
  torch::nn::Conv2d first{torch::nn::Conv2dOptions(1, 16, 3).padding(1)};
  torch::nn::Conv2d second{torch::nn::Conv2dOptions(16, 32, 3).padding(1)};
  torch::nn::Linear classify{512, 10};
};

struct Digits final : LogitsNet {
  Digits() { register_module("net", net); }
  at::Tensor forward(const at::Tensor& x) override { return net(x); }
  digits::Net net;
};

}  // namespace

std::shared_ptr<LogitsNet> mlp() { return std::make_shared<Mlp>(); }
std::shared_ptr<LogitsNet> conv() { return std::make_shared<Conv>(); }
std::shared_ptr<LogitsNet> digits_net() { return std::make_shared<Digits>(); }

}  // namespace benchmark_train
