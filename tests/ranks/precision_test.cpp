// Parameters of bfloat16 on several ranks: replicas stay equal bit for bit, with equal masters and equal chances,
// whatever each rank was built with and has drawn.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"

namespace accelerate {
namespace {

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", torch::nn::Linear(6, 16));
    norm = register_module("norm", torch::nn::BatchNorm1d(16));
    last = register_module("last", torch::nn::Linear(16, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return last(torch::relu(norm(first(x)))); }
  torch::nn::Linear first{nullptr}, last{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Net);

at::Tensor flat(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& tensor : tensors) parts.push_back(tensor.detach().to(torch::kFloat).flatten());
  return torch::cat(parts).clone();
}

/// The masters of those that have some.
at::Tensor trained(const Net& net, const Optimizer& optimizer) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& parameter : net->parameters()) {
    const at::Tensor* master = optimizer.core()->master_of(parameter);
    all.push_back(master != nullptr ? *master : parameter);
  }
  return flat(all);
}

class LowParametersOfRanks : public ::testing::TestWithParam<std::tuple<const char*, int64_t>> {};
INSTANTIATE_TEST_SUITE_P(PrecisionsAndRanks, LowParametersOfRanks,
                         ::testing::Combine(::testing::Values("bf16_master", "bf16_stochastic"),
                                            ::testing::Values(1, 2, 4)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param));
                         });

TEST_P(LowParametersOfRanks, StayEqualBitForBit) {
  const auto [precision, ranks] = GetParam();
  torch::manual_seed(1);
  const at::Tensor inputs = torch::randn({4, 12, 5, 6});
  std::vector<Net> nets;
  for (int64_t rank = 0; rank < ranks; ++rank) nets.emplace_back();  // each its own: prepare() gives all rank 0's
  const at::Tensor first = nets.front()->first->weight.detach().clone();
  testing::run_ranks(ranks, [&, precision = precision](const testing::Rank& rank) {
    Accelerator accelerator(rank.options({.mixed_precision = precision, .gradient_accumulation_steps = 2}));
    Net& net = nets[static_cast<size_t>(rank.rank())];
    auto [model, optimizer] =
        accelerator.prepare(net, torch::optim::AdamW(net->parameters(), torch::optim::AdamWOptions(1e-2)));
    if (const at::Tensor* master = optimizer.core()->master_of(net->first->weight)) {
      EXPECT_TRUE(torch::equal(*master, first)) << "rank 0's, unrounded";
    }
    EXPECT_EQ(optimizer.core()->master_of(net->first->weight) != nullptr, std::string(precision) == "bf16_master");
    for (int64_t micro = 0; micro < 12; ++micro) {
      auto window = accelerator.accumulate(model);
      accelerator.backward(model(inputs[rank.rank()][micro]).pow(2).mean());
      optimizer.step();
      if (micro % 2 == 1) {
        EXPECT_EQ(net->first->weight.grad().scalar_type(), torch::kBFloat16);
      }
      optimizer.zero_grad();
    }
    for (const at::Tensor& values : {flat(net->parameters()), trained(net, optimizer)}) {
      const at::Tensor all = accelerator.gather(values.unsqueeze(0));
      EXPECT_TRUE(torch::equal(all, values.expand({accelerator.num_processes(), -1})));
    }
    EXPECT_FALSE(torch::equal(net->first->weight, first.to(torch::kBFloat16)));
  });
}

// Means of what each process has trained on its own keep the digits of the masters.
TEST(LocalSgdOfMasters, AveragesThem) {
  std::vector<torch::nn::Linear> nets;
  for (int rank = 0; rank < 2; ++rank) nets.emplace_back(torch::nn::LinearOptions(4, 1).bias(false));
  testing::run_ranks(2, [&](const testing::Rank& rank) {
    Accelerator accelerator(rank.options({.mixed_precision = "bf16_master"}));
    auto& net = nets[static_cast<size_t>(rank.rank())];
    torch::nn::init::ones_(net->weight);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 1e-4));
    LocalSGD local(accelerator, model, {.local_sgd_steps = 4});
    for (int step = 0; step < 8; ++step) {
      accelerator.backward(model(torch::full({1, 4}, static_cast<double>(1 + rank.rank()))).sum());
      optimizer.step();
      optimizer.zero_grad();
      local.step();
    }
    local.finish();
    const at::Tensor* master = optimizer.core()->master_of(net->weight);
    ASSERT_NE(master, nullptr);
    // 8 steps of 1e-4, of gradients 1 and 2.
    EXPECT_TRUE(torch::allclose(*master, torch::full({1, 4}, 1 - 8 * 1.5e-4), 0, 1e-6)) << *master;
    EXPECT_TRUE(torch::equal(net->weight, master->to(torch::kBFloat16)));
  });
}

}  // namespace
}  // namespace accelerate
