// fp16 in several processes: one scale for all of them, and updates that all apply or all leave out.
#include <limits>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::GradScalerKwargs;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::inputs;
using ddp::mean_square;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;

/// Float64, so that the scale alone is looked at.
accelerate::AcceleratorOptions scaled(GradScalerKwargs scaler) {
  return {.mixed_precision = "fp16",
          .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
          .scaler_handler = scaler};
}

/// One update; with `bad` this rank's part of the gradient is infinite.
accelerate::StepResult update(Accelerator& accelerator, auto& model, auto& optimizer, const at::Tensor& x, bool bad) {
  const at::Tensor loss = mean_square(model(x));
  accelerator.backward(bad ? loss * std::numeric_limits<double>::infinity() : loss);
  accelerator.clip_grad_norm_(model, 0.5);
  const accelerate::StepResult result = optimizer.step();
  optimizer.zero_grad();
  return result;
}

class LossScaling : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(TwoFour, LossScaling, testing::Values(2, 4));

TEST_P(LossScaling, IsOneForAllRanksAndChangesNoUpdate) {
  const int64_t ranks = GetParam();
  Mlp reference(1);
  torch::optim::SGD sgd(reference->parameters(), 0.1);
  for (const int64_t step : {0, 1, 3, 4}) {  // the third one is left out
    mean_square(reference(ddp::all_inputs(ranks, step))).backward();
    torch::nn::utils::clip_grad_norm_(reference->parameters(), 0.5);
    sgd.step();
    sgd.zero_grad();
  }
  ddp::on_ranks(ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options(scaled({.init_scale = 256, .growth_interval = 2})));
    Mlp net(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    const double expected_scale[] = {256, 512, 256, 256, 512};
    for (int64_t step = 0; step < 5; ++step) {
      const bool bad = step == 2 && rank.rank() == ranks - 1;
      const auto result = update(accelerator, model, optimizer, inputs(rank.rank(), step), bad);
      EXPECT_EQ(result.skipped(), step == 2) << "on rank " << rank.rank();
      EXPECT_EQ(accelerator.scaler()->get_scale(), expected_scale[step]) << step;
    }
    EXPECT_LT(ddp::distance(ddp::values(*net), ddp::values(*reference)), ddp::kRounding);
  });
}

TEST_P(LossScaling, IsMadeEqualByLocalSGD) {
  ddp::on_ranks(GetParam(), [](const Rank& rank) {
    Accelerator accelerator(rank.options(scaled({.init_scale = 256, .growth_interval = 1})));
    Mlp net(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.01));
    {
      accelerate::LocalSGD local(accelerator, model, {.local_sgd_steps = 2});
      for (int64_t step = 0; step < 2; ++step) {
        const auto result = update(accelerator, model, optimizer, inputs(rank.rank(), step), rank.rank() == 1);
        EXPECT_EQ(result.skipped(), rank.rank() == 1) << "each decides for itself";
        EXPECT_EQ(accelerator.scaler()->get_scale(), rank.rank() == 1 ? 128 >> step : 512 << step);
        local.step();
      }
      EXPECT_EQ(accelerator.scaler()->get_scale(), 64) << "the smallest";
      local.finish();
    }
    EXPECT_TRUE(update(accelerator, model, optimizer, inputs(rank.rank(), 5), false).applied());
    EXPECT_EQ(accelerator.scaler()->get_scale(), 128);
    const Tensors own = ddp::values(*net);
    for (const at::Tensor& value : own) EXPECT_TRUE(torch::equal(accelerator.broadcast(value.clone()), value));
  });
}

/// Nothing would make the scales equal again, and a sum of gradients of two units is no gradient.
TEST_P(LossScaling, IsNotForStepsOfEachProcessOnItsOwn) {
  ddp::on_ranks(GetParam(), [](const Rank& rank) {
    Accelerator accelerator(rank.options(scaled({})));
    Mlp net(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    const auto local = accelerator.no_sync(model);
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    const auto step = [&optimizer = optimizer] { optimizer.step(); };
    EXPECT_THAT(step, ThrowsError<UsageError>({.place = "optimizer.step",
                                               .what = "factors of their own",
                                               .got = "inside no_sync",
                                               .expected = "gradients that were averaged",
                                               .remedy = "accelerate::LocalSGD"}));
  });
}

TEST_P(LossScaling, ThatDiffersBetweenRanksIsRefusedAtTheStart) {
  ddp::on_ranks(GetParam(), [](const Rank& rank) {
    const auto start =
        ddp::once([&] { Accelerator(rank.options(scaled({.init_scale = rank.rank() == 0 ? 256.0 : 512.0}))); });
    EXPECT_THAT(start, testing::ThrowsMessage<accelerate::ConfigError>(testing::HasSubstr("loss_scaling")));
  });
}

}  // namespace
