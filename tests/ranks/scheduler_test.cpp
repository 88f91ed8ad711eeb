// Prepared schedulers of several ranks: how far an update moves them, and units that do not depend on the ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::DataLoaderConfiguration;
using accelerate::GradientAccumulationPlugin;
using accelerate::Schedule;
using accelerate::Scheduler;
using accelerate::ScheduleUnit;
using accelerate::Seen;
using accelerate::StepResult;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

double rate_of(torch::optim::Optimizer& optimizer) { return optimizer.param_groups().at(0).options().get_lr(); }

class SchedulerOfRanks : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SchedulerOfRanks, testing::Values(1, 2, 4), testing::PrintToStringParamName());

// Source: upstream's tests/test_scheduler.py, lambda_test.
TEST_P(SchedulerOfRanks, ALambdaScheduleMovesByTheRanksAndNotWhenAStepWasSkipped) {
  for (const bool tied : {true, false}) {
    for (const bool split : {true, false}) {
      run_ranks(GetParam(), [&](const Rank& rank) {
        Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.split_batches = split},
                                              .step_scheduler_with_optimizer = tied}));
        torch::nn::Linear net(2, 4);
        torch::optim::AdamW adamw(net->parameters(), 1.0);
        const auto lambda = [](int64_t n) { return 1 - static_cast<double>(n) / 10; };
        auto [model, optimizer, scheduler] = accelerator.prepare(net, adamw, lambda);
        optimizer.core()->record(StepResult(StepResult::Outcome::kApplied));
        scheduler.step();
        const double expected = 1 - static_cast<double>(tied && !split ? rank.size() : 1) / 10;
        EXPECT_EQ(rate_of(adamw), expected);
        optimizer.core()->record(StepResult(StepResult::Outcome::kSkipped));
        scheduler.step();
        EXPECT_EQ(rate_of(adamw), tied ? expected : 0.8);
      });
    }
  }
}

// Source: upstream's tests/test_scheduler.py, one_cycle_test.
TEST_P(SchedulerOfRanks, OneCycleMovesByTheRanksUpToItsEnd) {
  for (const bool tied : {true, false}) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(rank.options({.step_scheduler_with_optimizer = tied}));
      torch::nn::Linear net(2, 4);
      torch::optim::AdamW adamw(net->parameters(), 1.0);
      auto [model, optimizer, scheduler] = accelerator.prepare(
          net, adamw, accelerate::one_cycle_lr({.max_lr = 0.01, .epochs = 1, .steps_per_epoch = 2}));
      scheduler.step();
      EXPECT_EQ(scheduler.last_epoch(), tied ? std::min<int64_t>(rank.size(), 2) : 1);
      if (!tied) return;
      for (int i = 0; i < 3; ++i) scheduler.step();
      EXPECT_EQ(scheduler.last_epoch(), 2);
    });
  }
}

// Source: upstream's tests/test_scheduler.py, accumulation_test.
TEST_P(SchedulerOfRanks, ALinearScheduleEndsAtZeroWithTheLastUpdateForAnyAccumulation) {
  for (const int64_t num_steps : {1, 2, 4}) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(
          rank.options({.gradient_accumulation_plugin = GradientAccumulationPlugin{.num_steps = num_steps}}));
      torch::nn::Linear net(2, 4);
      torch::optim::AdamW adamw(net->parameters(), 10.0);
      auto [model, optimizer, scheduler] =
          accelerator.prepare(net, adamw, accelerate::linear({.total_steps = 10 * rank.size()}));
      for (int64_t i = 0; i < 10 * num_steps; ++i) {
        auto window = accelerator.accumulate(model);
        optimizer.step();
        scheduler.step();
        if (i == 10 * num_steps - 2) {
          EXPECT_NE(rate_of(adamw), 0.0);
        }
      }
      EXPECT_EQ(rate_of(adamw), 0.0);
    });
  }
}

// Source: upstream's test_utils/scripts/test_sync.py, test_gradient_accumulation_with_opt_and_scheduler: the rates.
TEST_P(SchedulerOfRanks, RatesAreThoseOfAReferenceThatIsSteppedOnUpdates) {
  for (const bool split : {true, false}) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(rank.options(
          {.gradient_accumulation_steps = 2, .dataloader_config = DataLoaderConfiguration{.split_batches = split}}));
      torch::nn::Linear net(1, 1), twin(1, 1);
      torch::optim::AdamW adamw(net->parameters(), 1e-3), reference(twin->parameters(), 1e-3);
      const auto lambda = [](int64_t n) { return std::pow(static_cast<double>(n), 0.65); };
      accelerate::DataLoader data(accelerate::TensorDataset(torch::arange(80)), {.batch_size = 16});
      auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, adamw, data, lambda);
      const Scheduler by_hand(reference, lambda);
      for (int epoch = 0; epoch < 2; ++epoch) {
        for ([[maybe_unused]] auto& [ids] : loader) {
          auto window = accelerator.accumulate(model);
          optimizer.step();
          scheduler.step();
          const int64_t steps = !accelerator.sync_gradients() ? 0 : split ? 1 : rank.size();
          for (int64_t n = 0; n < steps; ++n) by_hand.step();
          EXPECT_EQ(rate_of(adamw), rate_of(reference));
        }
      }
      EXPECT_GT(rate_of(adamw), 1e-3);
    });
  }
}

struct Case {
  int64_t ranks = 1, num_steps = 1, samples = 1, batch_size = 1;
  bool split = false, adjust = false;
  int64_t rounds() const {
    const int64_t whole = split ? batch_size : ranks * batch_size;
    return (samples + whole - 1) / whole;
  }
};

Case any_case() {
  Case c{.ranks = *rc::gen::inRange<int64_t>(1, 5),
         .num_steps = *rc::gen::inRange<int64_t>(1, 6),
         .samples = *rc::gen::inRange<int64_t>(1, 50),
         .batch_size = *rc::gen::inRange<int64_t>(1, 5),
         .split = *rc::gen::arbitrary<bool>(),
         .adjust = *rc::gen::arbitrary<bool>()};
  if (c.split) c.batch_size *= c.ranks;
  return c;
}

/// Steps that each rank has taken after two passes.
std::vector<int64_t> steps_taken(const Case& c, const Schedule& schedule, bool counted) {
  std::vector<int64_t> taken(static_cast<size_t>(c.ranks));
  run_ranks(c.ranks, [&](const Rank& rank) {
    Accelerator accelerator(
        rank.options({.gradient_accumulation_plugin =
                          GradientAccumulationPlugin{.num_steps = c.num_steps, .adjust_scheduler = c.adjust},
                      .dataloader_config = DataLoaderConfiguration{.split_batches = c.split}}));
    torch::nn::Linear net(1, 1);
    torch::optim::SGD sgd(net->parameters(), 1.0);
    accelerate::DataLoader data(accelerate::TensorDataset(torch::arange(c.samples)), {.batch_size = c.batch_size});
    auto [model, optimizer, loader, scheduler] = accelerator.prepare(net, sgd, data, schedule);
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (auto& [ids] : loader) {
        auto window = accelerator.accumulate(model);
        optimizer.step();
        if (counted) {
          scheduler.step(Seen{.count = ids.sum().item<int64_t>()});
        } else {
          scheduler.step();
        }
      }
    }
    taken[static_cast<size_t>(rank.rank())] = scheduler.last_epoch();
  });
  return taken;
}

std::vector<int64_t> all(const Case& c, int64_t steps) {
  return std::vector<int64_t>(static_cast<size_t>(c.ranks), steps);
}

RC_GTEST_PROP(SchedulesOfRanks, TakeAsManyStepsAsTheUnitSays, ()) {
  const Case c = any_case();
  const Schedule constant = accelerate::constant();
  const int64_t updates = 2 * ((c.rounds() + c.num_steps - 1) / c.num_steps);
  const int64_t batches = c.split ? 1 : c.ranks;
  RC_ASSERT(steps_taken(c, constant, false) == all(c, batches * (c.adjust ? 2 * c.rounds() : updates)));
  RC_ASSERT(steps_taken(c, constant.in(ScheduleUnit::kUpdates), false) == all(c, updates));
  RC_ASSERT(steps_taken(c, constant.in(ScheduleUnit::kSamples), false) == all(c, 2 * c.samples));
}

RC_GTEST_PROP(SchedulesOfRanks, CountTokensOverAllRanks, ()) {
  Case c = any_case();
  const int64_t whole = c.split ? c.batch_size : c.ranks * c.batch_size;
  c.samples = whole * *rc::gen::inRange<int64_t>(1, 5);  // no round is filled up, so that each is counted once
  const int64_t tokens = 2 * (c.samples * (c.samples - 1) / 2);
  RC_ASSERT(steps_taken(c, accelerate::constant().in(ScheduleUnit::kTokens), true) == all(c, tokens));
}

TEST_P(SchedulerOfRanks, SamplesThatAreSeenAndThoseOfTheLoaderAddUp) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    torch::nn::Linear net(1, 1);
    torch::optim::SGD sgd(net->parameters(), 1.0);
    accelerate::DataLoader data(accelerate::TensorDataset(torch::arange(6 * rank.size())), {.batch_size = 3});
    auto [model, optimizer, loader, scheduler] =
        accelerator.prepare(net, sgd, data, accelerate::constant().in(ScheduleUnit::kSamples));
    for ([[maybe_unused]] auto& [ids] : loader) {
      auto window = accelerator.accumulate(model);
      optimizer.step();
      if (accelerator.sync_gradients()) {
        scheduler.step();
      } else {
        scheduler.step(Seen{.count = 1 + rank.rank()});
      }
    }
    EXPECT_EQ(scheduler.last_epoch(), rank.size() * (1 + rank.size()) / 2 + 3 * rank.size());
  });
}

TEST_P(SchedulerOfRanks, WhatOneProcessHasSeenIsNoStateOfAll) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    torch::nn::Linear net(1, 1);
    auto [model, optimizer, scheduler] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 1.0),
                                                             accelerate::constant().in(ScheduleUnit::kTokens));
    for (int64_t step = 0; step < 2; ++step) {
      auto window = accelerator.accumulate(model);
      optimizer.step();
      scheduler.step(Seen{.count = rank.rank()});
      const Scheduler& own = scheduler;
      if (rank.size() == 1 || step == 1) {
        EXPECT_NO_THROW(own.state_dict());
        continue;
      }
      EXPECT_THAT([&] { own.state_dict(); },
                  ThrowsError<accelerate::UsageError>({.place = "scheduler.state_dict",
                                                       .what = "has not been added up",
                                                       .got = std::to_string(rank.rank()) + " seen by this process",
                                                       .expected = "a call after the step that ends the window",
                                                       .remedy = "sync_gradients()"}));
    }
  });
}

TEST_P(SchedulerOfRanks, APlateauTakesItsMetricOnceForEachRankUnlessItCountsUpdates) {
  for (const ScheduleUnit unit : {ScheduleUnit::kBatches, ScheduleUnit::kUpdates}) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(rank.options());
      torch::nn::Linear net(1, 1);
      torch::optim::SGD sgd(net->parameters(), 1.0);
      auto [model, optimizer, scheduler] =
          accelerator.prepare(net, sgd, accelerate::ReduceLROnPlateau{.factor = 0.5, .patience = 3, .unit = unit});
      int64_t calls = 0;
      while (rate_of(sgd) == 1.0) {
        scheduler.step(1.0);
        ++calls;
      }
      // One that improves on nothing, then four that do not.
      const int64_t needed = unit == ScheduleUnit::kBatches ? (5 + rank.size() - 1) / rank.size() : 5;
      EXPECT_EQ(calls, needed);
    });
  }
}

TEST_P(SchedulerOfRanks, LibTorchsStepLRMovesByTheRanks) {
  for (const bool split : {true, false}) {
    run_ranks(GetParam(), [&](const Rank& rank) {
      Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.split_batches = split}}));
      torch::nn::Linear net(1, 1);
      torch::optim::SGD sgd(net->parameters(), 1.0), plain(net->parameters(), 1.0);
      auto [model, optimizer, scheduler] = accelerator.prepare(net, sgd, torch::optim::StepLR(sgd, 3, 0.5));
      torch::optim::StepLR unprepared(plain, 3, 0.5);
      for (int i = 0; i < 5; ++i) {
        scheduler.step();
        for (int64_t n = split ? 1 : rank.size(); n > 0; --n) unprepared.step();
        EXPECT_EQ(rate_of(sgd), rate_of(plain));
      }
    });
  }
}

/// A variable of the environment while it lives.
class Variable {
 public:
  explicit Variable(const char* name) : name_(name) { setenv(name_, "1", /*overwrite=*/1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

TEST(PlateauOfRanks, InDebugModeOtherMetricsAreNamed) {
  const Variable debug("ACCELERATE_DEBUG_MODE");
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    torch::nn::Linear net(1, 1);
    torch::optim::SGD sgd(net->parameters(), 1.0);
    auto [model, optimizer, scheduler] = accelerator.prepare(net, sgd, accelerate::ReduceLROnPlateau{});
    scheduler.step(0.25);
    const Scheduler& own = scheduler;
    EXPECT_THAT([&] { own.step(0.5 + static_cast<double>(rank.rank())); },
                ThrowsError<accelerate::CommError>({.place = "scheduler.step",
                                                    .what = "different metrics",
                                                    .got = "0.5 on rank 0, 1.5 on rank 1",
                                                    .expected = "the same number everywhere",
                                                    .remedy = "accelerator.reduce"}));
    EXPECT_EQ(scheduler.last_epoch(), 2);
  });
}

TEST(SchedulerPlans, ThatDifferBetweenRanksAreRefused) {
  run_ranks(2, [](const Rank& rank) {
    EXPECT_THAT([&] { Accelerator accelerator(rank.options({.step_scheduler_with_optimizer = rank.rank() == 0})); },
                ThrowsError<accelerate::ConfigError>(
                    {.place = "Accelerator",
                     .what = "not set up alike",
                     .got = "step_scheduler_with_optimizer true (argument) on rank 0, false (argument) on rank 1",
                     .expected = "the same on every rank",
                     .remedy = "same options"}));
  });
}

}  // namespace
