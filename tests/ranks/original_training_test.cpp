// The training check of the original (`training_check` of test_utils/scripts/test_script.py): a line is fitted to
// 32 P samples in three shuffled passes, and P processes with batches of 8 learn what one with batches of 8 P learns.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdio>

#include "accelerate/accelerate.h"
#include "tests/ranks/processes.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::DataLoader;
using accelerate::DataLoaderConfiguration;
using accelerate::TensorDataset;
using ranks::run_processes;

constexpr int64_t kBatch = 8;
constexpr double kTolerance = 1e-6;  // the original's, absolute and relative

struct LineImpl : torch::nn::Module {
  LineImpl() {
    a = register_parameter("a", torch::zeros({}));
    b = register_parameter("b", torch::zeros({}));
  }
  at::Tensor forward(const at::Tensor& x) { return x * a + b; }
  at::Tensor a, b;
};
TORCH_MODULE(Line);

auto line_of(int64_t samples) {
  const at::Tensor x = torch::sin(torch::arange(samples, torch::kDouble) * 7.3) * 1.5;
  const at::Tensor noise = torch::cos(torch::arange(samples, torch::kDouble) * 3.1) * 0.1;
  return TensorDataset(x.to(torch::kFloat), (2 * x + 3 + noise).to(torch::kFloat));
}

/// "a b", exactly.
std::string train(Accelerator& accelerator, int64_t samples, int64_t batch_size) {
  accelerator.set_seed(42);
  Line line;
  auto [model, optimizer, loader] =
      accelerator.prepare(line, torch::optim::SGD(line->parameters(), 0.1),
                          DataLoader(line_of(samples), {.batch_size = batch_size, .shuffle = true}));
  for (int epoch = 0; epoch < 3; ++epoch) {
    for (auto& [x, y] : loader) {
      optimizer.zero_grad();
      accelerator.backward(torch::nn::functional::mse_loss(model(x), y));
      optimizer.step();
    }
  }
  char text[80];
  std::snprintf(text, sizeof text, "%a %a", line->a.item<double>(), line->b.item<double>());
  return text;
}

struct Way {
  const char* name;
  DataLoaderConfiguration data;
  const char* precision;
};

class OriginalTraining : public testing::TestWithParam<std::tuple<int, Way>> {};
INSTANTIATE_TEST_SUITE_P(
    Ways, OriginalTraining,
    testing::Combine(
        testing::Values(2, 4),
        testing::Values(Way{"BatchesOfEach", {}, "no"}, Way{"Split", {.split_batches = true}, "no"},
                        Way{"Unseedable", {.use_seedable_sampler = false}, "no"},
                        Way{"UnseedableSplit", {.split_batches = true, .use_seedable_sampler = false}, "no"},
                        Way{"BFloat16", {}, "bf16"}, Way{"Float16", {}, "fp16"},
                        Way{"BFloat16Unseedable", {.use_seedable_sampler = false}, "bf16"})),
    [](const auto& info) {
      return std::string(std::get<1>(info.param).name) + "Of" + std::to_string(std::get<0>(info.param));
    });

TEST_P(OriginalTraining, OfSeveralProcessesIsThatOfOne) {
  const auto& [processes, way] = GetParam();
  const int64_t whole = kBatch * processes, samples = 4 * whole;
  const DataLoaderConfiguration alone{.use_seedable_sampler = way.data.use_seedable_sampler};
  const auto one = run_processes(1, {.dataloader_config = alone},
                                 [&](Accelerator& accelerator) { return train(accelerator, samples, whole); });
  const int64_t own = way.data.split_batches ? whole : kBatch;
  const auto several = run_processes(processes, {.mixed_precision = way.precision, .dataloader_config = way.data},
                                     [&](Accelerator& accelerator) { return train(accelerator, samples, own); });
  double expected[2] = {};
  ASSERT_EQ(std::sscanf(one.front().c_str(), "%la %la", &expected[0], &expected[1]), 2) << one.front();
  EXPECT_GT(expected[0], 1) << "it has learned something";
  for (const std::string& text : several) {
    EXPECT_EQ(text, several.front()) << "all processes have one model";
    double got[2] = {};
    ASSERT_EQ(std::sscanf(text.c_str(), "%la %la", &got[0], &got[1]), 2) << text;
    for (int i = 0; i < 2; ++i) EXPECT_NEAR(got[i], expected[i], kTolerance * (1 + std::abs(expected[i])));
  }
}

}  // namespace
