// Captured steps on two GPUs: the averages over the ranks are part of the graph.
#include <torch/torch.h>

#include <array>

#include "tests/gpu/ranks.h"
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

struct Result {
  std::vector<at::Tensor> tensors;
  CudaGraphReport report;
};

/// `alone`: in some steps one rank reads its loss in the middle, and falls back, while the other's graph is launched.
Result train(const accelerate::testing::Rank& rank, bool captured, int64_t micro_steps, const std::string& precision,
             bool alone = false) {
  accelerate::AcceleratorOptions options = rank.options();
  options.gradient_accumulation_steps = micro_steps;
  options.mixed_precision = precision;
  options.strategy = accelerate::Ddp{.bucket_cap_mb = 0.02};
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
  Result result;
  for (int i = 0; i < 40; ++i) {
    const auto x = torch::randn({16, 32}, generator).to(accelerator.device());
    const auto y = torch::randint(0, 4, {16}, generator, torch::kLong).to(accelerator.device());
    auto window = accelerator.accumulate(model);
    auto loss = torch::nn::functional::cross_entropy(model(x), y);
    accelerator.backward(loss);
    if (alone && i > 20 && i % 4 == 1 + rank.rank()) result.tensors.push_back(loss.detach().cpu());
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

std::array<Result, 2> train_all(bool captured, int64_t micro_steps, const std::string& precision, bool alone = false) {
  std::array<Result, 2> results;
  accelerate::testing::run_ranks(2, [&](const accelerate::testing::Rank& rank) {
    results[rank.rank()] = train(rank, captured, micro_steps, precision, alone);
  });
  return results;
}

TEST_F(StepCaptureOnTwoGpus, TheAverageIsPartOfTheGraph) {
  for (const std::string precision : {"no", "bf16", "fp16"}) {
    for (const int64_t micro_steps : {1, 2}) {
      SCOPED_TRACE(precision + ", " + std::to_string(micro_steps) + " micro-steps");
      const auto usual = train_all(false, micro_steps, precision), captured = train_all(true, micro_steps, precision);
      for (size_t rank = 0; rank < 2; ++rank) {
        ASSERT_EQ(usual[rank].tensors.size(), captured[rank].tensors.size());
        for (size_t i = 0; i < usual[rank].tensors.size(); ++i) {
          const at::Tensor &a = usual[rank].tensors[i], &b = captured[rank].tensors[i];
          EXPECT_TRUE(a.equal(b)) << "tensor " << i << " differs by " << (a - b).abs().max().item<double>();
        }
        const CudaGraphReport& report = captured[rank].report;
        EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
        EXPECT_THAT(report.not_captured, testing::IsEmpty());
        EXPECT_GT(report.replayed, 20);
      }
    }
  }
}

TEST_F(StepCaptureOnTwoGpus, OneRankMayFallBackAlone) {
  const auto usual = train_all(false, 1, "no", true), captured = train_all(true, 1, "no", true);
  for (size_t rank = 0; rank < 2; ++rank) {
    ASSERT_EQ(usual[rank].tensors.size(), captured[rank].tensors.size());
    for (size_t i = 0; i < usual[rank].tensors.size(); ++i) {
      EXPECT_TRUE(usual[rank].tensors[i].equal(captured[rank].tensors[i])) << "rank " << rank << ", tensor " << i;
    }
    EXPECT_GT(captured[rank].report.fallbacks, 2);
    EXPECT_GT(captured[rank].report.replayed, 15);
  }
}

}  // namespace
