#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "tests/unit/capturing.h"

/// A small training, with what a user's loop may do besides the page's, run with and without `.cuda_graph`.
namespace captured_loop {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::CudaGraph;
using accelerate::CudaGraphReport;

class StepCapture : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = capturing::refusal()) GTEST_SKIP() << *why;
  }
};

at::Tensor randn(at::IntArrayRef sizes);
at::Tensor labels_of(int64_t count);
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels);

struct NetImpl : torch::nn::Module {
  explicit NetImpl(double p = 0, bool norm = false) : dropout(p) {
    register_module("first", first);
    register_module("second", second);
    register_module("third", third);
    register_module("dropout", dropout);
    if (norm) normalize = register_module("norm", torch::nn::BatchNorm1d(16));
  }
  at::Tensor forward(const at::Tensor& x) {
    auto h = torch::relu(first(x));
    if (normalize) h = normalize(h);
    return third(torch::relu(second(dropout(h))));
  }
  torch::nn::Linear first{12, 16}, second{16, 16}, third{16, 4};
  torch::nn::Dropout dropout;
  torch::nn::BatchNorm1d normalize{nullptr};
};
TORCH_MODULE(Net);

/// What a user's loop may do besides the page's.
struct Variant {
  double dropout = 0;
  bool norm = false;
  int64_t accumulate = 1;
  int steps = 24;
  bool window = true;
  std::optional<std::string> mixed_precision = {};
  int64_t small_batch_every = 0;
};

/// The kernels that captured steps use on any device: LibTorch's for the CPU round differently.
void use_captured_kernels(const accelerate::Optimizer& optimizer);

struct Body {
  Accelerator& accelerator;
  const accelerate::Model<NetImpl>& model;
  const accelerate::Optimizer& optimizer;
  int64_t step;
  at::Tensor x, y;
  std::vector<double>& log;
};

/// The page's loop.
void page(Body& b);

/// A body of the page with places for what a user may add.
struct Additions {
  std::function<void(Body&)> before = {};
  std::function<at::Tensor(Body&, const at::Tensor& logits, at::Tensor loss)> loss = {};
  std::function<void(Body&, const at::Tensor& logits, const at::Tensor& loss)> after_backward = {};
  std::function<void(Body&, const at::Tensor& logits, const at::Tensor& loss)> after_step = {};
};

std::function<void(Body&)> with(Additions add);

struct Result {
  std::vector<at::Tensor> parameters;
  std::vector<double> log;
  CudaGraphReport report;
};
Result train(const Variant& variant, bool captured, const std::function<void(Body&)>& body);

/// The same bits with and without; returns what became of the steps.
CudaGraphReport expect_same(const Variant& variant, const std::function<void(Body&)>& body);
void expect_all_replayed(const CudaGraphReport& report, int64_t kinds = 1);

}  // namespace captured_loop
