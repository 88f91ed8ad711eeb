// Captured steps with a scaled loss where the device is behind the host: what became of an update is known late.
#include <torch/torch.h>

#include <limits>
#include <memory>
#include <vector>

#include "tests/gpu/gpu.h"

namespace {

using accelerate::Accelerator;
using accelerate::CudaGraph;

class ScaledStepOnGpu : public gpu::OneGpu {};

struct Result {
  std::vector<at::Tensor> tensors;
  std::vector<int64_t> counts;
  accelerate::CudaGraphReport report;
};

/// A step takes the device milliseconds; every seventh overflows.
Result train(bool captured) {
  accelerate::AcceleratorOptions options{.mixed_precision = "fp16"};
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  torch::manual_seed(1);
  torch::nn::Sequential net(torch::nn::Linear(4096, 8192), torch::nn::ReLU(), torch::nn::Linear(8192, 4096));
  auto [model, optimizer, scheduler] = accelerator.prepare(
      net, std::make_shared<torch::optim::AdamW>(net->parameters(), 1e-4), accelerate::cosine({.total_steps = 60}));
  const at::Tensor good = torch::randn({4096, 4096}, accelerator.device());
  const at::Tensor bad = torch::full_like(good, std::numeric_limits<float>::infinity());
  Result result;
  for (int step = 0; step < 40; ++step) {
    const at::Tensor x = (step % 7 == 6 ? bad : good).clone();
    auto window = accelerator.accumulate(model);
    auto loss = model(x).pow(2).mean();
    accelerator.backward(loss);
    accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
    result.tensors.push_back(loss.detach());
  }
  for (const auto& parameter : net->parameters()) result.tensors.push_back(parameter.detach().clone());
  for (auto& tensor : result.tensors) tensor = tensor.cpu();
  for (const auto& [key, state] : static_cast<torch::optim::Optimizer&>(optimizer).state()) {
    result.counts.push_back(static_cast<const torch::optim::AdamWParamState&>(*state).step());
  }
  result.report = accelerator.cuda_graph_report();
  return result;
}

TEST_F(ScaledStepOnGpu, IsReplayedThoughTheLastUpdateIsOnItsWay) {
  const Result usual = train(false), captured = train(true);
  ASSERT_EQ(usual.tensors.size(), captured.tensors.size());
  for (size_t i = 0; i < usual.tensors.size(); ++i) {
    EXPECT_TRUE(usual.tensors[i].allclose(captured.tensors[i], 0, 0, /*equal_nan=*/true)) << i;
  }
  EXPECT_EQ(captured.report.fallbacks, 0) << captured.report.last_fallback;
  EXPECT_GT(captured.report.replayed, 30);
  const std::vector<int64_t> expected(4, 35);
  EXPECT_EQ(usual.counts, expected);
  EXPECT_EQ(captured.counts, expected);
}

}  // namespace
