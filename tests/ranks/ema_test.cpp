// Averages of several ranks: equal without a word between them.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"

namespace accelerate {
namespace {

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", torch::nn::Linear(6, 8));
    norm = register_module("norm", torch::nn::BatchNorm1d(8));
    last = register_module("last", torch::nn::Linear(8, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return last(torch::relu(norm(first(x)))); }
  torch::nn::Linear first{nullptr}, last{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Net);

at::Tensor flat(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& tensor : tensors) parts.push_back(tensor.detach().flatten());
  return torch::cat(parts).clone();
}

class EmaOfRanks : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};
INSTANTIATE_TEST_SUITE_P(RanksAndSteps, EmaOfRanks,
                         ::testing::Combine(::testing::Values(1, 2, 4), ::testing::Values(1, 3)));

TEST_P(EmaOfRanks, AreEqualBitForBitAndCountUpdates) {
  const auto [ranks, steps] = GetParam();
  const int64_t accumulation = steps;
  torch::manual_seed(1);
  const at::Tensor inputs = torch::randn({4, 9, 5, 6});
  std::vector<Net> nets;
  for (int64_t rank = 0; rank < ranks; ++rank) nets.emplace_back();  // each its own: prepare() gives all rank 0's
  testing::run_ranks(ranks, [&](const testing::Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = accumulation}));
    Net& net = nets[static_cast<size_t>(rank.rank())];
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.05));
    Ema ema(model, {.decay = 0.7, .use_ema_warmup = true}), by_itself(model, {.decay = 0.7, .use_ema_warmup = true});
    by_itself.follow(optimizer);
    int64_t updates = 0;
    for (int64_t micro = 0; micro < 9; ++micro) {
      auto window = accelerator.accumulate(model);
      accelerator.backward(model(inputs[rank.rank()][micro]).pow(2).mean());
      updates += ema.update(optimizer.step()).applied() ? 1 : 0;
      optimizer.zero_grad();
    }
    EXPECT_EQ(updates, 9 / accumulation);
    EXPECT_EQ(by_itself.optimization_step(), updates);
    {
      at::Tensor averages;
      {
        const auto swapped = by_itself.apply();
        averages = flat(net->parameters());
      }
      const auto swapped = ema.apply();
      EXPECT_TRUE(torch::equal(averages, flat(net->parameters())));
    }
    const at::Tensor weights = flat(net->parameters());
    {
      const auto swapped = ema.apply();
      const at::Tensor averages = flat(net->parameters());
      EXPECT_FALSE(torch::equal(averages, weights));
      const at::Tensor all = accelerator.gather(averages.unsqueeze(0));
      EXPECT_TRUE(torch::equal(all, averages.expand({accelerator.num_processes(), -1})));
      const torch::NoGradGuard no_grad;
      net->eval();
      model(inputs[rank.rank()][0]);  // an evaluation through the handle
      net->train();
    }
    EXPECT_TRUE(torch::equal(flat(net->parameters()), weights));
    // Training goes on: the reducer's view of the parameters is untouched.
    auto window = accelerator.accumulate(model);
    accelerator.backward(model(inputs[rank.rank()][0]).pow(2).mean());
  });
}

}  // namespace
}  // namespace accelerate
