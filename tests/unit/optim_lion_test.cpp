// Lion: its own step against the numbers of the paper's program, its fused one against its own.
#include "accelerate/optim/lion.h"

#include <rapidcheck/gtest.h>

#include "tests/unit/optim_twin.h"

namespace {

using accelerate::Accelerator;
using accelerate::Lion;
using accelerate::LionOptions;
using accelerate::UsageError;
using training::expect_error;
using training::MakeOptimizer;
using training::Side;
using training::Twin;

MakeOptimizer lion(double weight_decay) {
  return [=](const std::vector<at::Tensor>& p) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<at::Tensor>(p.begin(), p.begin() + 2),
                        std::make_unique<LionOptions>(LionOptions(3e-3).betas({0.8, 0.95})));
    groups.emplace_back(std::vector<at::Tensor>(p.begin() + 2, p.end()));
    return std::make_unique<Lion>(groups, LionOptions(1e-3).weight_decay(weight_decay));
  };
}

TEST(Lion, StepsFusedAsByItself) {
  for (const double weight_decay : {0.0, 0.3}) {
    for (const auto dtype : {torch::kFloat, torch::kDouble}) {
      Twin twin(lion(weight_decay), dtype);
      EXPECT_EQ(twin.update->name(), "fused lion");
      for (int step = 0; step < 100; ++step) {
        if (step == 50) {
          twin.both([](Side& side) { side.optimizer().param_groups()[1].options().set_lr(1e-4); });
        }
        twin.step(step);
      }
      EXPECT_LT(twin.distance(), dtype == torch::kFloat ? 1e-6 : 1e-14);
    }
  }
}

TEST(Lion, IsSavedAndGoesOn) {
  Twin twin(lion(0.1)), next(lion(0.1));
  for (int step = 0; step < 10; ++step) twin.step(step);
  std::stringstream stream;
  torch::save(twin.ours.optimizer(), stream);
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < twin.ours.parameters().size(); ++i) {
    next.ours.parameters()[i].copy_(twin.ours.parameters()[i]);
  }
  torch::load(next.ours.optimizer(), stream);
  const auto& options = static_cast<const LionOptions&>(next.ours.optimizer().param_groups()[0].options());
  EXPECT_EQ(options.lr(), 3e-3);
  EXPECT_EQ(options.betas(), std::make_tuple(0.8, 0.95));
  for (int step = 10; step < 20; ++step) {
    twin.step(step);
    next.ours.set_gradients(step);
    next.update->step();
  }
  EXPECT_TRUE(training::equal(training::copy_of(next.ours.parameters()), training::copy_of(twin.ours.parameters())));
}

TEST(Lion, IsPreparedScheduledAndScaled) {
  Accelerator accelerator({.mixed_precision = "fp16",
                           .cpu = true,
                           .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
                           .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 256}});
  training::Mlp net(1), plain(1);
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, Lion(net->parameters(), LionOptions(0.01)), accelerate::linear({.total_steps = 10}));
  Lion stock(plain->parameters(), LionOptions(0.01));
  accelerate::Scheduler schedule(stock, accelerate::linear({.total_steps = 10}));
  EXPECT_EQ(optimizer.core()->update_name(), "fused lion");
  for (int step = 0; step < 6; ++step) {
    const auto [x, y] = training::make_batch(5, static_cast<uint64_t>(step));
    accelerator.backward(training::mse(model(x), y));
    if (step == 3) net->out->bias.mutable_grad()[0] = std::nan("");
    EXPECT_EQ(optimizer.step().skipped(), step == 3);
    scheduler.step();
    optimizer.zero_grad();
    if (step == 3) continue;
    plain->zero_grad();
    training::mse(plain(x), y).backward();
    stock.step();
    schedule.step();
  }
  EXPECT_LT(training::distance(training::copy_of(net->parameters()), training::copy_of(plain->parameters())), 1e-13);
}

TEST(Lion, RefusesOptionsOutOfRange) {
  const auto refused = [](LionOptions options, const std::string& got) {
    expect_error<UsageError>([&] { Lion({torch::ones({1}).requires_grad_()}, options); },
                             {"Lion", got, "0 or more", "LionOptions"});
  };
  refused(LionOptions(-1), "lr = -1");
  refused(LionOptions().betas({1, 0.9}), "the first of betas = 1");
  refused(LionOptions().betas({0.9, -0.1}), "the second of betas = -0.1");
  refused(LionOptions().weight_decay(-2), "weight_decay = -2");
}

}  // namespace
