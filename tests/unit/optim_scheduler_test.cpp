// Schedulers: base rates of groups, prepared and not, and what happens to groups that come and go.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::Scheduler;
using accelerate::UsageError;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using training::expect_error;
using training::learning_rate;
using training::Mlp;

/// An optimizer with two groups, rates 1.0 and 0.1.
std::unique_ptr<SGD> two_groups(const Mlp& net) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(net->hidden->parameters(), std::make_unique<SGDOptions>(1.0));
  groups.emplace_back(net->out->parameters(), std::make_unique<SGDOptions>(0.1));
  return std::make_unique<SGD>(groups, SGDOptions(0.5));
}

TEST(Scheduler, EveryGroupHasItsOwnBaseRate) {
  Mlp net;
  const auto sgd = two_groups(net);
  const Scheduler scheduler(*sgd, accelerate::linear({.total_steps = 4}));
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{1.0, 0.1}));
  scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.75, 0.1 * 0.75}));
  EXPECT_DOUBLE_EQ(learning_rate(*sgd, 1), 0.1 * 0.75);
  for (int i = 0; i < 3; ++i) scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.0, 0.0}));
  EXPECT_EQ(scheduler.last_epoch(), 4);
}

TEST(Scheduler, UnpreparedItCountsEveryCall) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  Scheduler scheduler(sgd, accelerate::linear({.total_steps = 10}));
  EXPECT_FALSE(scheduler.is_prepared());
  scheduler.step();
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.8);
}

TEST(Scheduler, UnpreparedOverAPreparedOptimizerItAlsoCountsEveryCall) {
  Accelerator accelerator({.gradient_accumulation_steps = 4});
  Mlp net;
  auto [model, optimizer] = accelerator.prepare(net, SGD(net->parameters(), 1.0));
  Scheduler scheduler(optimizer, accelerate::linear({.total_steps = 10}));
  auto window = accelerator.accumulate(model);
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(optimizer), 0.9);
}

TEST(Scheduler, PreparedItCountsUpdates) {
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  Mlp net;
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), accelerate::linear({.total_steps = 10}));
  std::vector<double> rates;
  for (int i = 0; i < 7; ++i) {
    auto window = accelerator.accumulate(model);
    optimizer.step();
    scheduler.step();
    rates.push_back(learning_rate(optimizer));
  }
  EXPECT_EQ(rates, (std::vector<double>{1.0, 1.0, 0.9, 0.9, 0.9, 0.8, 0.8}));
}

// Linear decay over the updates of the whole training ends at exactly zero with the last one, as in the original.
TEST(Scheduler, ALinearScheduleOverTenUpdatesEndsAtZeroForAnyAccumulation) {
  for (const int64_t steps : {1, 2, 4}) {
    Accelerator accelerator({.gradient_accumulation_steps = steps});
    Mlp net;
    auto [model, optimizer, scheduler] =
        accelerator.prepare(net, SGD(net->parameters(), 10.0), accelerate::linear({.total_steps = 10}));
    for (int64_t i = 0; i < 10 * steps; ++i) {
      auto window = accelerator.accumulate(model);
      optimizer.step();
      scheduler.step();
      EXPECT_EQ(learning_rate(optimizer) == 0.0, i == 10 * steps - 1) << steps;
    }
  }
}

TEST(Scheduler, BeforeTheFirstOptimizerStepItCounts) {
  Accelerator accelerator;
  Mlp net;
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), accelerate::linear({.total_steps = 10}));
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(optimizer), 0.9);
}

TEST(Scheduler, WithoutTheOptimizerItCountsEveryCall) {
  Accelerator accelerator({.gradient_accumulation_steps = 5, .step_scheduler_with_optimizer = false});
  Mlp net;
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), accelerate::linear({.total_steps = 10}));
  for (int i = 0; i < 3; ++i) {
    auto window = accelerator.accumulate(model);
    scheduler.step();
  }
  EXPECT_DOUBLE_EQ(learning_rate(optimizer), 0.7);
}

TEST(Scheduler, AGroupAddedLaterStartsFromItsOwnRate) {
  Mlp net, other(2);
  SGD sgd(net->parameters(), 1.0);
  Scheduler scheduler(sgd, accelerate::linear({.total_steps = 4}));
  scheduler.step();
  sgd.add_param_group(torch::optim::OptimizerParamGroup(other->parameters(), std::make_unique<SGDOptions>(0.2)));
  scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.5, 0.1}));
  scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.25, 0.05}));
}

TEST(Scheduler, OverwritesARateThatTheUserSet) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  Scheduler scheduler(sgd, accelerate::constant());
  sgd.param_groups()[0].options().set_lr(7.0);
  EXPECT_EQ(scheduler.get_last_lr(), std::vector<double>{7.0});
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
}

TEST(Scheduler, CopiesShareTheirCount) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  Scheduler scheduler(sgd, accelerate::linear({.total_steps = 4}));
  const Scheduler copy = scheduler;
  copy.step();
  scheduler.step();
  EXPECT_EQ(copy.last_epoch(), 2);
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.5);
}

TEST(Scheduler, LibTorchsOwnSchedulerTakesTheHandle) {
  Accelerator accelerator;
  Mlp net;
  auto [model, optimizer] = accelerator.prepare(net, SGD(net->parameters(), 1.0));
  torch::optim::StepLR steps(optimizer, 1, 0.5);
  steps.step();  // LibTorch's first call only counts
  optimizer.step();
  steps.step();
  EXPECT_DOUBLE_EQ(learning_rate(optimizer), 0.5);
}

TEST(Scheduler, AMovedFromOptimizerIsRefused) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  const SGD taken = std::move(sgd);
  expect_error<UsageError>(
      [&] { Scheduler(sgd, accelerate::constant()); },
      {"Scheduler", "moved from", "the optimizer that will step", "the handle that prepare() returned"});
}

TEST(Scheduler, AnOptimizerMovedAwayUnderItIsNoticed) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  const Scheduler scheduler(sgd, accelerate::constant());
  const SGD taken = std::move(sgd);
  expect_error<UsageError>([&] { scheduler.step(); },
                           {"scheduler.step", "0 groups", "1, as when the scheduler was built", "the prepared handle"});
}

TEST(Scheduler, AnEmptyScheduleIsRefused) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  expect_error<UsageError>([&] { Scheduler(sgd, accelerate::Schedule()); },
                           {"Scheduler", "an empty function", "constant(), linear(), cosine()", "Pass one of them"});
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
}

}  // namespace
