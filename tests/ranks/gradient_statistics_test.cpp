// Gradient statistics of several ranks: the averaged gradient after a step that synchronises, one's own before.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"

namespace accelerate {
namespace {

class GradientStatisticsOfRanks : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GradientStatisticsOfRanks, ::testing::Values(1, 2, 4));

TEST_P(GradientStatisticsOfRanks, SeeTheMeanOverTheRanksOnceItIsThere) {
  const int64_t ranks = GetParam();
  testing::run_ranks(ranks, [&](const testing::Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    torch::nn::Linear net(torch::nn::LinearOptions(2, 1).bias(false));
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    const auto mine = static_cast<double>(rank.rank() + 1);
    for (const bool last : {false, true}) {
      auto window = accelerator.accumulate(model);
      // The gradient is the input; half of it, since two micro-steps make a window.
      accelerator.backward(model(torch::full({1, 2}, 2 * mine)).sum());
      const GradientStatistics seen = accelerator.gradient_statistics(optimizer);
      const double mean = static_cast<double>(ranks + 1) / 2;  // of 1 to `ranks`
      EXPECT_EQ(seen.accumulated, !last);
      EXPECT_DOUBLE_EQ(seen.groups[0].mean, last ? 2 * mean : mine);
      EXPECT_DOUBLE_EQ(seen.groups[0].max_abs, seen.groups[0].mean);
      EXPECT_NEAR(seen.groups[0].norm, seen.groups[0].mean * std::sqrt(2.0), 1e-12);
      EXPECT_EQ(seen.groups[0].elements, 2);
      optimizer.step();
      optimizer.zero_grad();
    }
  });
}

}  // namespace
}  // namespace accelerate
