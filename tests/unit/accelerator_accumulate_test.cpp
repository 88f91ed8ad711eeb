// accumulate(): which micro-steps synchronise, and what step, schedule, clip and zero_grad do on the others.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::GradientAccumulationPlugin;
using accelerate::UsageError;
using training::copy_of;
using training::equal;
using training::expect_error;
using training::learning_rate;
using training::make_batch;
using training::Mlp;
using training::mse;

auto make_loader(int64_t batches, int64_t batch_size = 2) {
  const auto [x, y] = make_batch(batches * batch_size, 1);
  return accelerate::DataLoader(accelerate::TensorDataset(x, y), {.batch_size = batch_size});
}

/// Synchronisation flags after entry of each window, "F" or "T", of `epochs` passes over `batches` batches.
std::vector<std::string> trace(int64_t batches, GradientAccumulationPlugin plugin, int epochs) {
  Accelerator accelerator({.gradient_accumulation_plugin = plugin});
  auto [model, loader] = accelerator.prepare(Mlp(), make_loader(batches));
  std::vector<std::string> flags(epochs);
  for (std::string& epoch : flags) {
    for ([[maybe_unused]] auto& batch : loader) {
      auto window = accelerator.accumulate(model);
      epoch += accelerator.sync_gradients() ? 'T' : 'F';
    }
  }
  return flags;
}

struct TraceCase {
  int64_t batches;
  GradientAccumulationPlugin plugin;
  std::vector<std::string> epochs;
};

// The original's table, `Accelerator._do_sync` with batches L and steps N.
TEST(Accumulate, SynchronisesWhereTheOriginalDoes) {
  const std::vector<TraceCase> cases{
      {5, {.num_steps = 2}, {"FTFTT", "FTFTT", "FTFTT"}},
      {5, {.num_steps = 2, .sync_with_dataloader = false}, {"FTFTF", "TFTFT"}},
      {4, {.num_steps = 2}, {"FTFT", "FTFT"}},
      {3, {.num_steps = 4}, {"FFT", "FFT"}},
      {3, {.num_steps = 4, .sync_with_dataloader = false}, {"FFF", "TFF", "FTF"}},
      {6, {.num_steps = 4}, {"FFFTFT", "FFFTFT"}},
      {7, {.num_steps = 3}, {"FFTFFTT", "FFTFFTT"}},
      {1, {.num_steps = 5}, {"T", "T"}},
      {3, {.num_steps = 1}, {"TTT", "TTT"}},
  };
  for (const TraceCase& c : cases) {
    EXPECT_EQ(trace(c.batches, c.plugin, static_cast<int>(c.epochs.size())), c.epochs)
        << "L = " << c.batches << ", N = " << c.plugin.num_steps;
  }
}

TEST(Accumulate, AnUnpreparedLoaderHasNoEnd) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  std::string flags;
  for ([[maybe_unused]] auto& batch : make_loader(3)) {
    auto window = accelerator.accumulate(model);
    flags += accelerator.sync_gradients() ? 'T' : 'F';
  }
  EXPECT_EQ(flags, "FTF");
}

TEST(Accumulate, AnEvaluationLoopInsideATrainingLoopDoesNotEndItsWindow) {
  Accelerator accelerator({.gradient_accumulation_steps = 4});
  auto [model, loader, evaluation] = accelerator.prepare(Mlp(), make_loader(4), make_loader(1));
  std::string flags;
  for ([[maybe_unused]] auto& batch : loader) {
    for ([[maybe_unused]] auto& other : evaluation) {
    }
    auto window = accelerator.accumulate(model);
    flags += accelerator.sync_gradients() ? 'T' : 'F';
  }
  EXPECT_EQ(flags, "FFFT");
}

// The original keeps a broken-off loader registered; leaving the loop ends it here.
TEST(Accumulate, AfterBreakTheNextPassCountsOnAndEndsAtItsOwnEnd) {
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  auto [model, loader] = accelerator.prepare(Mlp(), make_loader(4));
  std::string flags;
  for (int pass = 0; pass < 2; ++pass) {
    int batches = 0;
    for ([[maybe_unused]] auto& batch : loader) {
      auto window = accelerator.accumulate(model);
      flags += accelerator.sync_gradients() ? 'T' : 'F';
      if (pass == 0 && ++batches == 2) break;
    }
    flags += ' ';
  }
  EXPECT_EQ(flags, "FF TFFT ");
}

TEST(Accumulate, TheFlagStaysUntilTheNextWindow) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  EXPECT_TRUE(accelerator.sync_gradients()) << "before the first window";
  { auto window = accelerator.accumulate(model); }
  EXPECT_FALSE(accelerator.sync_gradients());
  { auto window = accelerator.accumulate(model); }
  EXPECT_TRUE(accelerator.sync_gradients());
}

TEST(Accumulate, OnMicroStepsNothingIsAppliedScheduledClippedOrDropped) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 1.0);
  auto [model, optimizer, scheduler] = accelerator.prepare(net, sgd, accelerate::linear({.total_steps = 10}));
  const auto [x, y] = make_batch(4, 1);
  const auto before = copy_of(net->parameters());

  at::Tensor gradient;
  {
    auto window = accelerator.accumulate(model);
    accelerator.backward(mse(model(x), y));
    gradient = net->out->weight.grad().clone();
    EXPECT_TRUE(accelerator.clip_grad_norm_(model, {.max_norm = 1e-9}).accumulated);
    EXPECT_TRUE(accelerator.clip_grad_value_(model, {.clip_value = 1e-9}).accumulated);
    const auto result = optimizer.step();
    EXPECT_TRUE(result.accumulated());
    EXPECT_FALSE(result.applied());
    EXPECT_FALSE(result.skipped());
    scheduler.step();
    optimizer.zero_grad();
  }
  EXPECT_TRUE(equal(before, net->parameters()));
  EXPECT_TRUE(torch::equal(net->out->weight.grad(), gradient));
  EXPECT_EQ(scheduler.last_epoch(), 0);
  {
    auto window = accelerator.accumulate(model);
    accelerator.backward(mse(model(x), y));
    EXPECT_TRUE(torch::allclose(net->out->weight.grad(), 2 * gradient)) << "gradients add up";
    EXPECT_FALSE(accelerator.clip_grad_norm_(model, {.max_norm = 1.0}).accumulated);
    const auto result = optimizer.step();
    EXPECT_TRUE(result.applied());
    EXPECT_FALSE(result.accumulated());
    scheduler.step();
    optimizer.zero_grad();
  }
  EXPECT_FALSE(equal(before, net->parameters()));
  EXPECT_FALSE(net->out->weight.grad().defined());
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.9);
}

// x = 1..8, y = 2x, batch 2, four micro-steps, weight 0, rate 0.02: the original ends at 2.04, as one full-batch step.
TEST(Accumulate, TheOriginalsExampleWithNumbers) {
  Accelerator accelerator({.gradient_accumulation_steps = 4});
  torch::nn::Linear line(torch::nn::LinearOptions(1, 1).bias(false));
  line->to(torch::kDouble);
  torch::nn::init::zeros_(line->weight);
  const auto x = torch::arange(1, 9, torch::kDouble).unsqueeze(1);
  auto [model, optimizer, loader] =
      accelerator.prepare(line, torch::optim::SGD(line->parameters(), 0.02),
                          accelerate::DataLoader(accelerate::TensorDataset(x, at::Tensor(2 * x)), {.batch_size = 2}));
  for (auto& [input, target] : loader) {
    auto window = accelerator.accumulate(model);
    accelerator.backward(mse(model(input), target));
    optimizer.step();
    optimizer.zero_grad();
  }
  EXPECT_NEAR(line->weight.item<double>(), 2.04, 1e-12);
}

TEST(Accumulate, TheShortLastWindowIsStillDividedByN) {
  Accelerator accelerator({.gradient_accumulation_steps = 4});
  Mlp net(1), plain(1);
  auto [model, loader] = accelerator.prepare(net, make_loader(1));
  for (auto& [x, y] : loader) {
    auto window = accelerator.accumulate(model);
    EXPECT_TRUE(accelerator.sync_gradients());
    accelerator.backward(mse(model(x), y));
    (mse(plain(x), y) / 4).backward();
  }
  EXPECT_TRUE(torch::equal(net->out->weight.grad(), plain->out->weight.grad()));
}

TEST(Accumulate, WithoutItEveryStepIsAppliedWhenNothingAccumulates) {
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto [x, y] = make_batch(4, 1);
  for (int i = 0; i < 2; ++i) {
    accelerator.backward(mse(model(x), y));
    EXPECT_TRUE(optimizer.step().applied());
  }
}

TEST(Accumulate, TwoStepsInOneWindowAreRefused) {
  for (const int64_t steps : {1, 2}) {
    Accelerator accelerator({.gradient_accumulation_steps = steps});
    Mlp net(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    auto window = accelerator.accumulate(model);
    optimizer.step();
    expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step(); },
                             {"optimizer.step", "two steps after one accumulate()", "one window for each step",
                              "auto window = accelerator.accumulate(model);"});
  }
}

TEST(Accumulate, AWindowAroundTheWholeLoopIsRefusedAtTheSecondBatch) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  auto [model, optimizer, loader] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1), make_loader(4));
  auto window = accelerator.accumulate(model);
  int batches = 0;
  EXPECT_THROW(
      {
        for (auto& [x, y] : loader) {
          ++batches;
          accelerator.backward(mse(model(x), y));
          optimizer.step();
        }
      },
      UsageError);
  EXPECT_EQ(batches, 2);
}

TEST(Accumulate, AForgottenGuardIsRefusedBeforeAnythingHappens) {
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto [x, y] = make_batch(4, 1);
  const auto before = copy_of(net->parameters());
  const auto loss = mse(model(x), y);
  expect_error<UsageError>([&] { accelerator.backward(loss); },
                           {"backward", "gradient_accumulation_steps = 3 without a guard",
                            "a guard that lives until the end of the loop body", "at the top of the loop body"});
  EXPECT_FALSE(net->out->weight.grad().defined());
  expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step(); },
                           {"optimizer.step", "gradient_accumulation_steps = 3 without a guard", "a guard",
                            "auto window = accelerator.accumulate(model);"});
  EXPECT_TRUE(equal(before, net->parameters()));
}

TEST(Accumulate, AGuardThatEndedAtOnceIsAForgottenGuard) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  static_cast<void>(accelerator.accumulate(model));
  const auto [x, y] = make_batch(4, 1);
  const auto loss = mse(model(x), y);
  EXPECT_THROW(accelerator.backward(loss), UsageError);
}

TEST(Accumulate, ASecondWindowInsideTheFirstIsRefusedAndTheFirstGoesOn) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  const auto [x, y] = make_batch(4, 1);
  auto window = accelerator.accumulate(model);
  expect_error<UsageError>([&] { auto second = accelerator.accumulate(model); },
                           {"accumulate", "before the first guard ended", "one window at a time", "one call"});
  EXPECT_FALSE(accelerator.sync_gradients()) << "the refused window did not count";
  const auto loss = mse(model(x), y);
  EXPECT_NO_THROW(accelerator.backward(loss));
}

TEST(Accumulate, AMovedGuardEndsOnce) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  const auto [x, y] = make_batch(4, 1);
  const auto loss = mse(model(x), y);
  {
    auto window = accelerator.accumulate(model);
    {
      auto moved = std::move(window);
      EXPECT_NO_THROW(accelerator.backward(loss, {.retain_graph = true}));
    }
    EXPECT_THROW(accelerator.backward(loss), UsageError) << "the window ended with the object it was moved to";
    auto next = accelerator.accumulate(model);
    EXPECT_TRUE(accelerator.sync_gradients());
  }
  auto third = accelerator.accumulate(model);
  EXPECT_FALSE(accelerator.sync_gradients());
}

TEST(Accumulate, AnExceptionInTheBodyEndsTheWindow) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp());
  EXPECT_THROW(
      {
        auto window = accelerator.accumulate(model);
        throw std::runtime_error("in the body");
      },
      std::runtime_error);
  EXPECT_NO_THROW({ auto window = accelerator.accumulate(model); });
}

TEST(Accumulate, NeedsNoModelToCount) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  { auto window = accelerator.accumulate(); }
  EXPECT_FALSE(accelerator.sync_gradients());
  auto window = accelerator.accumulate();
  EXPECT_TRUE(accelerator.sync_gradients());
}

TEST(Accumulate, AModelOfAnotherAcceleratorIsRefused) {
  Accelerator accelerator, other;
  auto mine = accelerator.prepare(Mlp(1));
  auto foreign = other.prepare(Mlp(2));
  expect_error<UsageError>([&] { auto window = accelerator.accumulate(mine, foreign); },
                           {"accumulate", "that Accelerator's handle", "a model that this one prepared",
                            "the Accelerator that prepared it"});
  EXPECT_NO_THROW({ auto window = accelerator.accumulate(mine); });
}

TEST(Accumulate, AnUntiedScheduleCountsEveryCall) {
  Accelerator accelerator({.gradient_accumulation_steps = 2, .step_scheduler_with_optimizer = false});
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 1.0);
  auto [model, optimizer, scheduler] = accelerator.prepare(net, sgd, accelerate::linear({.total_steps = 10}));
  for (int i = 1; i <= 3; ++i) {
    auto window = accelerator.accumulate(model);
    optimizer.step();
    scheduler.step();
    EXPECT_EQ(scheduler.last_epoch(), i);
    EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0 - 0.1 * i);
  }
}

}  // namespace
