// Captured steps on two GPUs whose last gradients are still between the ranks when the update begins.
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/captured_ranks.h"

namespace {

using accelerate::Accelerator;
using accelerate::CudaGraph;

class LateGradientsOnTwoGpus : public gpu::TwoGpus {};

/// Its first layer's gradient is the last one, and takes a while.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    register_module("first", first);
    register_module("middle", middle);
    register_module("last", last);
  }
  at::Tensor forward(const at::Tensor& x) { return last(torch::relu(middle(torch::relu(first(x))))); }
  torch::nn::Linear first{8192, 4096}, middle{4096, 512}, last{512, 4};
};
TORCH_MODULE(Net);

using MakeOptimizer = std::function<std::shared_ptr<torch::optim::Optimizer>(Net&)>;

std::shared_ptr<torch::optim::Optimizer> adamw(Net& net) {
  return std::make_shared<torch::optim::AdamW>(net->parameters(), 1e-3);
}
std::shared_ptr<torch::optim::Optimizer> sgd(Net& net) {
  return std::make_shared<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(1e-2).momentum(0.9));
}
std::shared_ptr<torch::optim::Optimizer> two_groups(Net& net) {
  std::vector<at::Tensor> weights, biases;
  for (const auto& entry : net->named_parameters()) {
    (entry.key().find("bias") == std::string::npos ? weights : biases).push_back(entry.value());
  }
  auto without_decay = std::make_unique<torch::optim::AdamWOptions>(1e-3);
  without_decay->weight_decay(0);
  std::vector<torch::optim::OptimizerParamGroup> groups{{weights}, {biases, std::move(without_decay)}};
  return std::make_shared<torch::optim::AdamW>(groups, torch::optim::AdamWOptions(1e-3));
}

/// What the loop does between `backward` and `step`.
enum class Between { kNothing, kClip, kLook, kRead };

struct Setting {
  MakeOptimizer optimizer = adamw;
  Between between = Between::kNothing;
  int64_t micro_steps = 1;
  std::string precision = "no";
  double bucket_cap_mb = 0.5;
};

gpu::Trained train(const accelerate::testing::Rank& rank, const Setting& setting, bool captured) {
  accelerate::AcceleratorOptions options = rank.options();
  options.gradient_accumulation_steps = setting.micro_steps;
  options.mixed_precision = setting.precision;
  options.strategy = accelerate::Ddp{.bucket_cap_mb = setting.bucket_cap_mb, .gradient_as_bucket_view = true};
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  Net net;
  {
    auto same = at::detail::createCPUGenerator(3);
    const torch::NoGradGuard no_grad;
    for (auto& parameter : net->parameters()) parameter.copy_(torch::randn(parameter.sizes(), same) * 0.01);
  }
  auto generator = at::detail::createCPUGenerator(10 + rank.rank());
  auto [model, optimizer] = accelerator.prepare(net, setting.optimizer(net));
  gpu::Trained result;
  for (int i = 0; i < 16; ++i) {
    const auto x = torch::randn({8, 8192}, generator).to(accelerator.device());
    const auto y = torch::randint(0, 4, {8}, generator, torch::kLong).to(accelerator.device());
    auto window = accelerator.accumulate(model);
    auto loss = torch::nn::functional::cross_entropy(model(x), y);
    accelerator.backward(loss);
    if (setting.between == Between::kClip) accelerator.clip_grad_norm_(model, {.max_norm = 0.1});
    if (setting.between == Between::kLook) result.tensors.push_back(net->first->weight.grad().sum());
    if (setting.between == Between::kRead) result.tensors.push_back(loss.detach().cpu());
    optimizer.step();
    optimizer.zero_grad();
    result.tensors.push_back(loss.detach());
  }
  for (const auto& parameter : net->parameters()) result.tensors.push_back(parameter.detach().clone());
  for (auto& tensor : result.tensors) tensor = tensor.cpu();
  result.report = accelerator.cuda_graph_report();
  return result;
}

void expect_same(const Setting& setting) {
  const auto reports = gpu::expect_same(
      [&](const accelerate::testing::Rank& rank, bool captured) { return train(rank, setting, captured); });
  gpu::expect_replayed(reports, 5);
}

TEST_F(LateGradientsOnTwoGpus, AreWaitedForByTheUpdateThatNeedsThem) {
  for (const MakeOptimizer& optimizer : {MakeOptimizer(adamw), MakeOptimizer(sgd), MakeOptimizer(two_groups)}) {
    for (const double bucket_cap_mb : {0.5, 4096.0}) {  // the second: one bucket, all of which comes last
      SCOPED_TRACE(bucket_cap_mb);
      expect_same({.optimizer = optimizer, .bucket_cap_mb = bucket_cap_mb});
    }
  }
}

TEST_F(LateGradientsOnTwoGpus, AreWaitedForByWhateverElseLooksAtThem) {
  for (const Between between : {Between::kClip, Between::kLook, Between::kRead}) {
    SCOPED_TRACE(static_cast<int>(between));
    expect_same({.between = between});
  }
}

TEST_F(LateGradientsOnTwoGpus, GrowOverMicroStepsAndInEveryPrecision) {
  for (const std::string precision : {"bf16", "bf16_master", "fp16"}) {
    SCOPED_TRACE(precision);
    expect_same({.micro_steps = 2, .precision = precision});
  }
}

}  // namespace
