// Options of schedules that cannot be met, and what absolute rates do to several groups.
#include <cmath>
#include <limits>

#include "tests/unit/training.h"

namespace {

using accelerate::ConfigError;
using accelerate::Schedule;
using accelerate::Scheduler;
using accelerate::UsageError;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using training::expect_error;
using training::learning_rate;
using training::Mlp;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(ScheduleOptions, OfWarmUpsAreChecked) {
  expect_error<ConfigError>([] { accelerate::polynomial({.warmup_steps = -1, .total_steps = 5}); },
                            {"polynomial", ".warmup_steps = -1", "0 or more", "no warm-up"});
  expect_error<ConfigError>([] { accelerate::polynomial({.total_steps = 5, .lr_end = -0.5}); },
                            {"polynomial", ".lr_end = -0.5", "0 or more", ".lr_end"});
  expect_error<ConfigError>([] { accelerate::polynomial({.total_steps = 5, .power = 0}); },
                            {"polynomial", ".power = 0", "more than 0", ".power"});
  expect_error<ConfigError>([] { accelerate::inverse_sqrt({.timescale = 0}); },
                            {"inverse_sqrt", ".timescale = 0", "1 or more", ".timescale"});
  expect_error<ConfigError>(
      [] { accelerate::warmup_stable_decay({.decay_steps = 5}); },
      {"warmup_stable_decay", "neither .total_steps nor .stable_steps", "one of them", "Set .total_steps"});
  expect_error<ConfigError>(
      [] { accelerate::warmup_stable_decay({.warmup_steps = 4, .decay_steps = 5, .total_steps = 8}); },
      {"warmup_stable_decay", ".total_steps = 8 with 9 steps", "0 or more steps between", "Shorten"});
  expect_error<ConfigError>(
      [] {
        accelerate::warmup_stable_decay({.warmup_steps = 1, .decay_steps = 2, .total_steps = 9, .stable_steps = 3});
      },
      {"warmup_stable_decay", ".total_steps = 9 with .warmup_steps = 1, .stable_steps = 3, .decay_steps = 2",
       "the sum of the three", "Leave out"});
  expect_error<ConfigError>(
      [] { accelerate::warmup_stable_decay({.stable_steps = 3, .warmup_type = "sine"}); },
      {"warmup_stable_decay", ".warmup_type = \"sine\"", "one of \"linear\", \"cosine\", \"1-sqrt\"", ".warmup_type"});
  expect_error<ConfigError>([] { accelerate::warmup_stable_decay({.stable_steps = 3, .min_lr_ratio = 2}); },
                            {"warmup_stable_decay", ".min_lr_ratio = 2", "from 0 to 1", ".min_lr_ratio"});
}

TEST(ScheduleOptions, OfWavesAreChecked) {
  expect_error<ConfigError>([] { accelerate::cosine_with_restarts({.total_steps = 5, .num_cycles = 0}); },
                            {"cosine_with_restarts", ".num_cycles = 0", "1 or more", ".num_cycles"});
  expect_error<ConfigError>([] { accelerate::cosine_with_min_lr({.total_steps = 5}); },
                            {"cosine_with_min_lr", "neither .min_lr nor .min_lr_rate", "one of the two", ".min_lr"});
  expect_error<ConfigError>(
      [] { accelerate::cosine_with_min_lr({.total_steps = 5, .min_lr = 0.1, .min_lr_rate = 0.5}); },
      {"cosine_with_min_lr", ".min_lr = 0.1 and .min_lr_rate = 0.5", "one of the two", ".min_lr"});
  expect_error<ConfigError>(
      [] { accelerate::cosine_warmup_with_min_lr({.total_steps = 5, .min_lr = 0.1, .warmup_lr_rate = -1}); },
      {"cosine_warmup_with_min_lr", ".warmup_lr_rate = -1", "from 0 to 1", ".warmup_lr_rate"});
  expect_error<ConfigError>([] { accelerate::cosine_annealing_lr({}); },
                            {"cosine_annealing_lr", ".T_max = 0", "1 or more", ".T_max"});
  expect_error<ConfigError>([] { accelerate::cosine_annealing_warm_restarts({.T_0 = 3, .T_mult = 0}); },
                            {"cosine_annealing_warm_restarts", ".T_mult = 0", "1 or more", ".T_mult"});
}

TEST(ScheduleOptions, OfDecaysAreChecked) {
  expect_error<ConfigError>([] { accelerate::step_lr({}); }, {"step_lr", ".step_size = 0", "1 or more", ".step_size"});
  expect_error<ConfigError>([] { accelerate::step_lr({.step_size = 1, .gamma = std::nan("")}); },
                            {"step_lr", ".gamma = nan", "0 or more", ".gamma"});
  expect_error<ConfigError>(
      [] {
        accelerate::multi_step_lr({.milestones = {5, 0}});
      },
      {"multi_step_lr", ".milestones = 0", "1 or more", ".milestones"});
  expect_error<ConfigError>([] { accelerate::exponential_lr({}); },
                            {"exponential_lr", ".gamma = 0", "more than 0", ".gamma"});
  expect_error<ConfigError>([] { accelerate::constant_lr({.factor = 1.5}); },
                            {"constant_lr", ".factor = 1.5", "from 0 to 1", ".factor"});
  expect_error<ConfigError>([] { accelerate::linear_lr({.total_iters = 0}); },
                            {"linear_lr", ".total_iters = 0", "1 or more", ".total_iters"});
  expect_error<ConfigError>([] { accelerate::polynomial_lr({.power = kInfinity}); },
                            {"polynomial_lr", ".power = inf", "more than 0", ".power"});
}

TEST(ScheduleOptions, OfCyclesAreChecked) {
  expect_error<ConfigError>([] { accelerate::one_cycle_lr({.max_lr = 0.1}); },
                            {"one_cycle_lr", "neither .total_steps nor .epochs", ".total_steps", "scheduler steps"});
  expect_error<ConfigError>([] { accelerate::one_cycle_lr({.max_lr = 0.1, .epochs = 3}); },
                            {"one_cycle_lr", ".epochs without .steps_per_epoch", ".total_steps", "scheduler steps"});
  expect_error<ConfigError>([] { accelerate::one_cycle_lr({.total_steps = 3}); },
                            {"one_cycle_lr", ".max_lr = 0", "more than 0", ".max_lr"});
  expect_error<ConfigError>(
      [] { accelerate::one_cycle_lr({.max_lr = 0.1, .total_steps = 3, .anneal_strategy = "cosine"}); },
      {"one_cycle_lr", ".anneal_strategy = \"cosine\"", "one of \"cos\", \"linear\"", ".anneal_strategy"});
  expect_error<ConfigError>(
      [] { accelerate::one_cycle_lr({.max_lr = 0.1, .total_steps = 3, .pct_start = 0.6, .three_phase = true}); },
      {"one_cycle_lr", ".pct_start = 0.6 with .three_phase = true", "0.5 or less", "Lower"});
  expect_error<ConfigError>([] { accelerate::cyclic_lr({.max_lr = 0.1, .step_size_up = 0}); },
                            {"cyclic_lr", ".step_size_up = 0", "1 or more", ".step_size_up"});
  expect_error<ConfigError>([] { accelerate::cyclic_lr({.max_lr = 0.1, .mode = "square"}); },
                            {"cyclic_lr", ".mode = \"square\"", "\"triangular2\"", ".mode"});
  expect_error<ConfigError>(
      [] {
        accelerate::cyclic_lr({.max_lr = {0.1, -1.0}});
      },
      {"cyclic_lr", ".max_lr = -1", "0 or more", ".max_lr"});
}

TEST(ScheduleOptions, OfCombinationsAreChecked) {
  expect_error<ConfigError>([] { accelerate::chained({}); }, {"chained", "an empty list", "one schedule", "Pass some"});
  expect_error<ConfigError>([] { accelerate::per_group({Schedule()}); },
                            {"per_group", "an empty function", "a function of the step", "constant()"});
  expect_error<ConfigError>(
      [] {
        accelerate::sequential({accelerate::constant(), accelerate::constant()}, {});
      },
      {"sequential", "0 milestones for 2 schedules", "one less than schedules", "all but the first"});
  expect_error<ConfigError>(
      [] {
        accelerate::sequential({accelerate::constant(), accelerate::constant(), accelerate::constant()},
                               {.milestones = {5, 5}});
      },
      {"sequential", "5 after 5", "more than the one before", "Sort"});
  expect_error<ConfigError>(
      [] { accelerate::chained({accelerate::constant().in(accelerate::ScheduleUnit::kSamples)}); },
      {"chained", "a schedule with .in(unit)", "one unit", "of the combined schedule"});
  expect_error<ConfigError>([] { accelerate::hold_after(accelerate::constant(), {.step = -1}); },
                            {"hold_after", ".step = -1", "0 or more", ".step"});
}

class TwoGroups : public testing::Test {
 protected:
  static std::vector<torch::optim::OptimizerParamGroup> groups_of(const Mlp& net) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(net->hidden->parameters(), std::make_unique<SGDOptions>(1.0));
    groups.emplace_back(net->out->parameters(), std::make_unique<SGDOptions>(0.25));
    return groups;
  }
  Mlp net;
  SGD sgd{groups_of(net), SGDOptions(1.0)};
};

// The original ties absolute minima to the optimizer's default rate: the second group would end at a quarter of them.
TEST_F(TwoGroups, AbsoluteMinimaHoldForEveryGroup) {
  for (const Schedule& schedule : {accelerate::polynomial({.total_steps = 4, .lr_end = 0.125}),
                                   accelerate::cosine_with_min_lr({.total_steps = 4, .min_lr = 0.125}),
                                   accelerate::cosine_annealing_lr({.T_max = 4, .eta_min = 0.125})}) {
    SGD own(groups_of(net), SGDOptions(1.0));
    const Scheduler scheduler(own, schedule);
    EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{1.0, 0.25}));
    for (int i = 0; i < 4; ++i) scheduler.step();
    EXPECT_NEAR(scheduler.get_last_lr()[0], 0.125, 1e-15);
    EXPECT_NEAR(scheduler.get_last_lr()[1], 0.125, 1e-15);
  }
}

TEST_F(TwoGroups, ARateBelowTheMinimumIsRefusedAndNothingChanges) {
  expect_error<ConfigError>([&] { Scheduler(sgd, accelerate::cosine_with_min_lr({.total_steps = 4, .min_lr = 0.5})); },
                            {"cosine_with_min_lr", ".min_lr = 0.5 for group 1, whose rate is 0.25",
                             "no group's rate is below", ".min_lr_rate"});
  expect_error<ConfigError>([&] { Scheduler(sgd, accelerate::polynomial({.total_steps = 4, .lr_end = 0.25})); },
                            {"polynomial", ".lr_end = 0.25 for group 1, whose rate is 0.25",
                             "less than the rate of every group", "schedule of its own"});
  EXPECT_EQ(learning_rate(sgd, 0), 1.0);
  EXPECT_EQ(learning_rate(sgd, 1), 0.25);
}

TEST_F(TwoGroups, ListsHaveAValueForEachGroup) {
  const Scheduler cycle(sgd, accelerate::cyclic_lr({.base_lr = {0.5, 0.125}, .max_lr = {1.0, 2.0}, .step_size_up = 1}));
  EXPECT_EQ(cycle.get_last_lr(), (std::vector<double>{0.5, 0.125}));
  cycle.step();
  EXPECT_EQ(cycle.get_last_lr(), (std::vector<double>{1.0, 2.0}));
  expect_error<ConfigError>(
      [&] {
        Scheduler(sgd, accelerate::one_cycle_lr({.max_lr = {0.1, 0.2, 0.3}, .total_steps = 5}));
      },
      {"one_cycle_lr", "3 values of .max_lr for 2 groups", "one for each", ".max_lr"});
  expect_error<ConfigError>([&] { Scheduler(sgd, accelerate::per_group({accelerate::constant()})); },
                            {"per_group", "1 schedules for 2 groups", "one schedule for each group", "constant()"});
  expect_error<ConfigError>(
      [&] {
        Scheduler(sgd, accelerate::ReduceLROnPlateau{.min_lr = {0.1, 0.2, 0.3}});
      },
      {"ReduceLROnPlateau", "3 values of .min_lr for 2 groups", "one for each", ".min_lr"});
}

TEST_F(TwoGroups, PerGroupEachHasItsOwnSchedule) {
  const Scheduler scheduler(sgd, accelerate::per_group({accelerate::linear({.total_steps = 4}),
                                                        [](int64_t step) { return step < 2 ? 1.0 : 0.5; }}));
  scheduler.step();
  scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr(), (std::vector<double>{0.5, 0.125}));
}

TEST(ScheduleMomentum, IsTheFirstBetaOfAdamAndMomentumOfSgd) {
  Mlp net;
  const Schedule cycle = accelerate::cyclic_lr({.base_lr = 0.1, .max_lr = 0.2, .step_size_up = 2});
  torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(1.0).betas({0.5, 0.75}));
  torch::optim::Adam adam(net->parameters(), torch::optim::AdamOptions(1.0));
  SGD sgd(net->parameters(), SGDOptions(1.0));
  torch::optim::RMSprop rmsprop(net->parameters(), torch::optim::RMSpropOptions(1.0));
  for (torch::optim::Optimizer* optimizer : std::vector<torch::optim::Optimizer*>{&adamw, &adam, &sgd, &rmsprop}) {
    const Scheduler scheduler(*optimizer, cycle);
    scheduler.step();
  }
  const auto betas = static_cast<torch::optim::AdamWOptions&>(adamw.param_groups()[0].options()).betas();
  EXPECT_NEAR(std::get<0>(betas), 0.85, 1e-15);
  EXPECT_EQ(std::get<1>(betas), 0.75);
  EXPECT_NEAR(std::get<0>(static_cast<torch::optim::AdamOptions&>(adam.param_groups()[0].options()).betas()), 0.85,
              1e-15);
  EXPECT_NEAR(static_cast<SGDOptions&>(sgd.param_groups()[0].options()).momentum(), 0.85, 1e-15);
  EXPECT_NEAR(static_cast<torch::optim::RMSpropOptions&>(rmsprop.param_groups()[0].options()).momentum(), 0.85, 1e-15);
}

TEST(ScheduleMomentum, OfAnOptimizerWithoutIsRefused) {
  Mlp net;
  torch::optim::Adagrad adagrad(net->parameters(), torch::optim::AdagradOptions(0.5));
  expect_error<UsageError>([&] { Scheduler(adagrad, accelerate::one_cycle_lr({.max_lr = 0.1, .total_steps = 5})); },
                           {"Scheduler", "parameter group 0 without momentum", "torch::optim::SGD, RMSprop, Adam",
                            ".cycle_momentum = false"});
  EXPECT_EQ(learning_rate(adagrad), 0.5);
  EXPECT_NO_THROW(
      Scheduler(adagrad, accelerate::one_cycle_lr({.max_lr = 0.1, .total_steps = 5, .cycle_momentum = false})));
}

// Past the end: what each does there is defined, and the same for a step taken alone or among several.
TEST(ScheduleEnd, OneCycleKeepsItsLastRateAndTakesNoFurtherStep) {
  const Schedule cycle = accelerate::one_cycle_lr({.max_lr = 1.0, .total_steps = 10});
  const double last = 1.0 / 25 / 1e4;
  EXPECT_NEAR(cycle(9), last, 1e-18);
  EXPECT_EQ(cycle(10), cycle(9));
  EXPECT_EQ(cycle(1000), cycle(9));
  Mlp net;
  SGD sgd(net->parameters(), 0.5);
  const Scheduler scheduler(sgd, cycle);
  for (int i = 0; i < 10; ++i) scheduler.step();
  expect_error<UsageError>([&] { scheduler.step(); },
                           {"scheduler.step", "step 10 + 1", ".total_steps = 10", "of the whole training"});
  EXPECT_EQ(scheduler.last_epoch(), 10);
}

TEST(ScheduleEnd, CosineRisesAgainUnlessItIsHeld) {
  const Schedule wave = accelerate::cosine({.total_steps = 10});
  const Schedule held = accelerate::hold_after(wave, {.step = 10});
  EXPECT_EQ(wave(10), 0.0);
  EXPECT_GT(wave(12), 0.09) << "as the original's";
  EXPECT_EQ(held(12), 0.0);
  EXPECT_EQ(held(7), wave(7));
  EXPECT_EQ(accelerate::cosine_with_restarts({.total_steps = 10})(12), 0.0);
}

TEST(ScheduleByHand, AWholeCycle) {
  const Schedule cycle = accelerate::one_cycle_lr({.max_lr = 1.0,
                                                   .total_steps = 11,
                                                   .pct_start = 6.0 / 11,
                                                   .anneal_strategy = "linear",
                                                   .base_momentum = 0.5,
                                                   .max_momentum = 1.0,
                                                   .div_factor = 2,
                                                   .final_div_factor = 4});
  EXPECT_NEAR(cycle(0), 0.5, 1e-15);
  EXPECT_NEAR(cycle(5), 1.0, 1e-15);
  EXPECT_NEAR(cycle(10), 0.125, 1e-15);
  EXPECT_NEAR(cycle(1), 0.6, 1e-15);
  EXPECT_NEAR(cycle(6), 0.825, 1e-15);
  EXPECT_NEAR(*cycle.at(0, {}).momentum, 1.0, 1e-15);
  EXPECT_NEAR(*cycle.at(5, {}).momentum, 0.5, 1e-15);
  EXPECT_NEAR(*cycle.at(10, {}).momentum, 1.0, 1e-15);
}

TEST(ScheduleByHand, WarmUpStableDecay) {
  const Schedule schedule = accelerate::warmup_stable_decay(
      {.warmup_steps = 2, .decay_steps = 4, .total_steps = 8, .decay_type = "linear", .min_lr_ratio = 0.5});
  const std::vector<double> expected{0.5, 0.75, 1, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5};
  for (size_t step = 0; step < expected.size(); ++step) EXPECT_EQ(schedule(static_cast<int64_t>(step)), expected[step]);
}

TEST(ScheduleByHand, CyclicWithAScaleOfItsOwn) {
  const auto cycle = [](const char* mode) {
    return accelerate::cyclic_lr({.base_lr = 1.0,
                                  .max_lr = 3.0,
                                  .step_size_up = 2,
                                  .scale_fn = [](double x) { return 1 / x; },
                                  .scale_mode = mode});
  };
  EXPECT_EQ(cycle("cycle")(2), 3.0);
  EXPECT_EQ(cycle("cycle")(6), 2.0) << "the second cycle has half the height";
  EXPECT_EQ(cycle("iterations")(2), 2.0) << "at the second step";
}

}  // namespace
