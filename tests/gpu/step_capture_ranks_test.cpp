// Captured steps on two GPUs: the averages over the ranks are part of the graph.
#include <torch/torch.h>

#include <array>

#include "tests/gpu/captured_ranks.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::CudaGraph;
using accelerate::CudaGraphReport;

class StepCaptureOnTwoGpus : public gpu::TwoGpus {};

struct NetImpl : torch::nn::Module {
  NetImpl() {
    register_module("first", first);
    register_module("norm", norm);
    register_module("second", second);
  }
  at::Tensor forward(const at::Tensor& x) { return second(torch::relu(norm(first(x)))); }
  torch::nn::Linear first{32, 300}, second{300, 4};
  torch::nn::BatchNorm1d norm{300};
};
TORCH_MODULE(Net);

struct Setting {
  int64_t micro_steps = 1;
  std::string precision = "no";
  std::string comm_hook = "no";
  /// In some steps one rank reads its loss in the middle, and falls back, while the other's graph is launched.
  bool alone = false;
};

gpu::Trained train(const accelerate::testing::Rank& rank, const Setting& setting, bool captured) {
  accelerate::AcceleratorOptions options = rank.options();
  options.gradient_accumulation_steps = setting.micro_steps;
  options.mixed_precision = setting.precision;
  options.strategy = accelerate::Ddp{.bucket_cap_mb = 0.02, .comm_hook = setting.comm_hook};
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  Net net;
  {
    auto same = at::detail::createCPUGenerator(3);
    const torch::NoGradGuard no_grad;
    for (auto& parameter : net->parameters()) parameter.copy_(torch::randn(parameter.sizes(), same) * 0.1);
  }
  auto generator = at::detail::createCPUGenerator(10 + rank.rank());
  torch::optim::AdamW adamw(net->parameters(), 1e-3);
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, adamw, accelerate::cosine({.warmup_steps = 4, .total_steps = 60}));
  gpu::Trained result;
  for (int i = 0; i < 40; ++i) {
    const auto x = torch::randn({16, 32}, generator).to(accelerator.device());
    const auto y = torch::randint(0, 4, {16}, generator, torch::kLong).to(accelerator.device());
    auto window = accelerator.accumulate(model);
    auto loss = torch::nn::functional::cross_entropy(model(x), y);
    accelerator.backward(loss);
    if (setting.alone && i > 20 && i % 4 == 1 + rank.rank()) result.tensors.push_back(loss.detach().cpu());
    accelerator.clip_grad_norm_(model, {.max_norm = 0.3});
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
    result.tensors.push_back(loss.detach());
  }
  for (const auto& parameter : net->parameters()) result.tensors.push_back(parameter.detach().clone());
  for (const auto& buffer : net->buffers()) result.tensors.push_back(buffer.clone());
  for (auto& tensor : result.tensors) tensor = tensor.cpu();
  result.report = accelerator.cuda_graph_report();
  return result;
}

/// Returns the reports with capture.
std::array<CudaGraphReport, 2> expect_same(const Setting& setting) {
  return gpu::expect_same(
      [&](const accelerate::testing::Rank& rank, bool captured) { return train(rank, setting, captured); });
}

void expect_replayed(const Setting& setting) { gpu::expect_replayed(expect_same(setting), 20); }

TEST_F(StepCaptureOnTwoGpus, TheAverageIsPartOfTheGraph) {
  for (const std::string precision : {"no", "bf16", "fp16"}) {
    for (const int64_t micro_steps : {1, 2}) {
      SCOPED_TRACE(precision + ", " + std::to_string(micro_steps) + " micro-steps");
      expect_replayed({.micro_steps = micro_steps, .precision = precision});
    }
  }
}

TEST_F(StepCaptureOnTwoGpus, SoAreGradientsThatTravelInHalfTheirBits) {
  for (const std::string hook : {"bf16", "fp16"}) {
    SCOPED_TRACE(hook);
    expect_replayed({.comm_hook = hook});
  }
}

TEST_F(StepCaptureOnTwoGpus, OneRankMayFallBackAlone) {
  for (const CudaGraphReport& report : expect_same({.alone = true})) {
    EXPECT_GT(report.fallbacks, 2);
    EXPECT_GT(report.replayed, 15);
  }
}

}  // namespace
