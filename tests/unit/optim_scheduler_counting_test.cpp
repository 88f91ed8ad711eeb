// What one update counts for: units, adjust_scheduler, metrics, skipped updates. In one process.
#include <limits>
#include <stdexcept>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::GradientAccumulationPlugin;
using accelerate::ReduceLROnPlateau;
using accelerate::Schedule;
using accelerate::Scheduler;
using accelerate::ScheduleUnit;
using accelerate::Seen;
using accelerate::UsageError;
using torch::optim::SGD;
using training::expect_error;
using training::learning_rate;
using training::Mlp;

/// Its rate tells the step: base rate 1 gives 1 / (1 + step).
Schedule counter() {
  return [](int64_t step) { return 1.0 / (1.0 + static_cast<double>(step)); };
}

/// One model with an optimizer of rate 1, and `samples` rows in batches of 4.
struct Loop {
  explicit Loop(AcceleratorOptions options, Schedule schedule, int64_t samples = 22)
      : accelerator(std::move(options)),
        sgd(net->parameters(), 1.0),
        data(accelerate::TensorDataset(torch::zeros({samples, 4}, torch::kDouble)), {.batch_size = 4}),
        prepared(accelerator.prepare(net, sgd, data, std::move(schedule))) {}

  /// Steps taken after each micro-step of one pass.
  std::vector<int64_t> pass(const std::function<void(const Scheduler&, int64_t rows)>& step) {
    auto& [model, optimizer, loader, scheduler] = prepared;
    std::vector<int64_t> taken;
    for (auto& [x] : loader) {
      auto window = accelerator.accumulate(model);
      optimizer.step();
      step(scheduler, x.size(0));
      taken.push_back(scheduler.last_epoch());
      EXPECT_EQ(learning_rate(sgd), counter()(scheduler.last_epoch()));
    }
    return taken;
  }
  std::vector<int64_t> pass() {
    return pass([](const Scheduler& scheduler, int64_t) { scheduler.step(); });
  }

  Accelerator accelerator;
  Mlp net;
  SGD sgd;
  accelerate::DataLoader<std::tuple<at::Tensor>> data;
  std::tuple<accelerate::Model<training::MlpImpl>, accelerate::Optimizer,
             accelerate::DataLoader<std::tuple<at::Tensor>>, Scheduler>
      prepared;
};

using Steps = std::vector<int64_t>;

AcceleratorOptions every(int64_t num_steps, bool adjust_scheduler) {
  return {.gradient_accumulation_plugin =
              GradientAccumulationPlugin{.num_steps = num_steps, .adjust_scheduler = adjust_scheduler}};
}

TEST(AdjustScheduler, CountsTheMicroStepsOfAWindowWithItsUpdate) {
  EXPECT_EQ(Loop(every(2, false), counter()).pass(), (Steps{0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(Loop(every(2, true), counter()).pass(), (Steps{0, 2, 2, 4, 4, 6}));
  EXPECT_EQ(Loop(every(4, true), counter()).pass(), (Steps{0, 0, 0, 4, 4, 6})) << "the last window is short";
}

TEST(AdjustScheduler, AScheduleSizedInBatchesEndsWithTheTrainingForAnyAccumulation) {
  for (const int64_t num_steps : {1, 2, 3, 4, 6, 7}) {
    for (const int64_t samples : {4, 21, 22, 40}) {
      const int64_t batches = (samples + 3) / 4;
      Loop loop(every(num_steps, true), counter(), samples);
      loop.pass();
      EXPECT_EQ(loop.pass().back(), 2 * batches) << num_steps << " " << samples;
    }
  }
}

TEST(AdjustScheduler, IsNoConcernOfAnUntiedScheduleNorOfOtherUnits) {
  AcceleratorOptions untied = every(2, true);
  untied.step_scheduler_with_optimizer = false;
  EXPECT_EQ(Loop(untied, counter()).pass(), (Steps{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(Loop(every(2, true), counter().in(ScheduleUnit::kUpdates)).pass(), (Steps{0, 1, 1, 2, 2, 3}));
}

TEST(AdjustScheduler, DropsTheMicroStepsOfASkippedUpdate) {
  Loop loop(every(2, true), counter());
  auto& [model, optimizer, loader, scheduler] = loop.prepared;
  for (int i = 0; i < 4; ++i) {
    auto window = loop.accelerator.accumulate(model);
    optimizer.step();
    if (i == 1) optimizer.core()->record(accelerate::StepResult(accelerate::StepResult::Outcome::kSkipped));
    scheduler.step();
    EXPECT_EQ(scheduler.last_epoch(), i == 3 ? 2 : 0) << i;
  }
}

TEST(AdjustScheduler, WaitingMicroStepsAreSaved) {
  Loop first(every(4, true), counter()), second(every(4, true), counter());
  {
    auto window = first.accelerator.accumulate(std::get<0>(first.prepared));
    std::get<3>(first.prepared).step();
  }
  std::get<3>(second.prepared).load_state_dict(std::get<3>(first.prepared).state_dict());
  EXPECT_EQ(second.pass(), (Steps{0, 0, 0, 5, 5, 7}));
}

TEST(ScheduleUnits, SamplesAreThoseOfTheLoader) {
  EXPECT_EQ(Loop(every(1, false), counter().in(ScheduleUnit::kSamples)).pass(), (Steps{4, 8, 12, 16, 20, 22}));
  EXPECT_EQ(Loop(every(4, false), counter().in(ScheduleUnit::kSamples)).pass(), (Steps{0, 0, 0, 16, 16, 22}));
  AcceleratorOptions untied = every(4, false);
  untied.step_scheduler_with_optimizer = false;
  EXPECT_EQ(Loop(untied, counter().in(ScheduleUnit::kSamples)).pass(), (Steps{4, 8, 12, 16, 20, 22}));
}

TEST(ScheduleUnits, SamplesAndTokensMayBeCountedByTheUser) {
  for (const ScheduleUnit unit : {ScheduleUnit::kSamples, ScheduleUnit::kTokens}) {
    Loop loop(every(2, false), counter().in(unit));
    const auto taken = loop.pass([](const Scheduler& s, int64_t rows) { s.step(Seen{.count = 10 * rows}); });
    EXPECT_EQ(taken, (Steps{0, 80, 80, 160, 160, 220}));
  }
}

TEST(ScheduleUnits, UnpreparedTheyCountWhatIsSaid) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  const Scheduler scheduler(sgd, accelerate::linear({.total_steps = 100}).in(ScheduleUnit::kTokens));
  scheduler.step(Seen{.count = 25});
  EXPECT_EQ(learning_rate(sgd), 0.75);
  scheduler.step(Seen{});
  EXPECT_EQ(scheduler.last_epoch(), 25);
}

TEST(ScheduleUnits, CountsThatAreMissingOrTooManyAreRefused) {
  Loop tokens({}, counter().in(ScheduleUnit::kTokens)), samples({}, counter().in(ScheduleUnit::kSamples)),
      batches({}, counter());
  expect_error<UsageError>([&] { std::get<3>(tokens.prepared).step(); },
                           {"scheduler.step", "without a count", "step(Seen{.count = tokens})", "Count the tokens"});
  expect_error<UsageError>([&] { std::get<3>(samples.prepared).step(); },
                           {"scheduler.step", "without a count", "a loop over a prepared loader", "Count the samples"});
  expect_error<UsageError>([&] { std::get<3>(tokens.prepared).step(Seen{.count = -1}); },
                           {"scheduler.step", "step(Seen{-1})", "0 or more", "this micro-step has seen"});
  expect_error<UsageError>([&] { std::get<3>(batches.prepared).step(Seen{.count = 3}); },
                           {"scheduler.step", "step(Seen{3})", "step()", "schedule.in("});
  EXPECT_EQ(std::get<3>(tokens.prepared).last_epoch(), 0);
}

TEST(PreparedScheduler, StaysAtTheEndOfOneCycle) {
  const Schedule cycle = accelerate::one_cycle_lr({.max_lr = 0.01, .epochs = 1, .steps_per_epoch = 2});
  Accelerator accelerator;
  Mlp net;
  auto [model, optimizer, scheduler] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1.0), cycle);
  std::vector<int64_t> taken;
  for (int i = 0; i < 4; ++i) {
    scheduler.step();
    taken.push_back(scheduler.last_epoch());
  }
  EXPECT_EQ(taken, (Steps{1, 2, 2, 2}));
}

TEST(PlateauScheduler, LowersTheRateOfThePreparedOptimizer) {
  Accelerator accelerator;
  Mlp net;
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), ReduceLROnPlateau{.factor = 0.5, .patience = 1});
  for (const double metric : {3.0, 2.0, 2.0, 2.0}) scheduler.step(metric);
  EXPECT_EQ(learning_rate(optimizer), 0.5);
  scheduler.step(torch::tensor(1.0));
  scheduler.step(torch::tensor({std::numeric_limits<double>::quiet_NaN()}));
  EXPECT_EQ(learning_rate(optimizer), 0.5) << "one step without improvement";
  scheduler.step(torch::tensor(std::numeric_limits<double>::quiet_NaN()));
  EXPECT_EQ(learning_rate(optimizer), 0.25);
  EXPECT_EQ(scheduler.last_epoch(), 7);
}

TEST(PlateauScheduler, AMicroStepIsNoStepAndAccumulationDoesNotMultiplyTheMetric) {
  Accelerator accelerator(every(3, true));
  Mlp net;
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), ReduceLROnPlateau{.factor = 0.5, .patience = 1});
  for (int i = 0; i < 9; ++i) {
    auto window = accelerator.accumulate(model);
    scheduler.step(1.0);
  }
  EXPECT_EQ(scheduler.last_epoch(), 3);
  EXPECT_EQ(learning_rate(optimizer), 0.5);
}

TEST(PlateauScheduler, MetricsThatAreMissingOrOutOfPlaceAreRefused) {
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  const Scheduler plateau(sgd, ReduceLROnPlateau{}), schedule(sgd, accelerate::constant());
  expect_error<UsageError>([&] { plateau.step(); },
                           {"scheduler.step", "step() without one", "step(metric)", "the same on every process"});
  expect_error<UsageError>([&] { schedule.step(0.5); },
                           {"scheduler.step", "step(metric)", "step()", "accelerate::ReduceLROnPlateau"});
  expect_error<UsageError>([&] { plateau.step(torch::ones({2})); },
                           {"scheduler.step", "Float of shape [2]", "one real element", "mean() or sum()"});
  expect_error<UsageError>([&] { plateau.step(at::Tensor()); },
                           {"scheduler.step", "an undefined tensor", "one real element", "mean() or sum()"});
}

TEST(PlateauScheduler, OptionsThatCannotBeMetAreRefused) {
  using accelerate::ConfigError;
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  const auto refuses = [&](ReduceLROnPlateau options, training::Words words) {
    expect_error<ConfigError>([&] { Scheduler(sgd, options); }, words);
  };
  refuses({.mode = "least"}, {"ReduceLROnPlateau", ".mode = \"least\"", "one of \"min\", \"max\"", ".mode"});
  refuses({.factor = 1}, {"ReduceLROnPlateau", ".factor = 1", "below 1", "Lower"});
  refuses({.factor = -1}, {"ReduceLROnPlateau", ".factor = -1", "0 or more", ".factor"});
  refuses({.patience = -1}, {"ReduceLROnPlateau", ".patience = -1", "0 or more", ".patience"});
  refuses({.threshold_mode = "x"}, {"ReduceLROnPlateau", ".threshold_mode = \"x\"", "\"rel\", \"abs\"", ".threshold"});
  refuses({.unit = ScheduleUnit::kTokens}, {"ReduceLROnPlateau", ".unit", "kUpdates", "Choose one"});
}

// Source: upstream's tests/test_state_checkpointing.py: a step-decay scheduler saved, changed and loaded.
TEST(SchedulerState, ChangesInTrainingAndIsTheSavedOneAfterLoading) {
  Loop loop({}, accelerate::step_lr({.step_size = 1, .gamma = 0.99}).in(ScheduleUnit::kUpdates));
  auto& [model, optimizer, loader, scheduler] = loop.prepared;
  const auto saved = scheduler.state_dict();
  for (int i = 0; i < 3; ++i) scheduler.step();
  EXPECT_NE(scheduler.state_dict(), saved);
  EXPECT_LT(learning_rate(optimizer), 1.0);
  scheduler.load_state_dict(saved);
  EXPECT_EQ(scheduler.state_dict(), saved);
  EXPECT_EQ(learning_rate(optimizer), 1.0);
}

// A schedule that throws leaves what waits for an update: the next call counts it.
TEST(SchedulerState, IsKeptWhenTheScheduleThrows) {
  bool fails = false;
  Loop loop(every(2, true), [&fails](int64_t step) {
    if (fails) throw std::runtime_error("later");
    return 1.0 / (1.0 + static_cast<double>(step));
  });
  auto& [model, optimizer, loader, scheduler] = loop.prepared;
  for (int i = 0; i < 2; ++i) {
    auto window = loop.accelerator.accumulate(model);
    fails = i == 1;
    const Scheduler& own = std::get<3>(loop.prepared);
    if (fails) {
      EXPECT_THROW(own.step(), std::runtime_error);
    }
    if (!fails) own.step();
  }
  EXPECT_EQ(scheduler.last_epoch(), 0);
  EXPECT_EQ(learning_rate(optimizer), 1.0);
  fails = false;
  scheduler.step();
  EXPECT_EQ(scheduler.last_epoch(), 2);
}

TEST(SchedulerState, OfAnotherKindOrOtherGroupsIsRefusedAndChangesNothing) {
  Mlp net;
  SGD one(net->hidden->parameters(), 1.0), other(net->hidden->parameters(), 1.0);
  const Scheduler schedule(one, accelerate::linear({.total_steps = 4})), plateau(other, ReduceLROnPlateau{});
  schedule.step();
  auto state = schedule.state_dict();
  expect_error<UsageError>([&] { plateau.load_state_dict(state); },
                           {"scheduler.load_state_dict", "no best, cooldown_counter, num_bad_epochs",
                            "the numbers of this kind", "Build the scheduler"});
  EXPECT_EQ(learning_rate(other), 1.0);
  state.base_rates.push_back(2.0);
  expect_error<UsageError>([&] { schedule.load_state_dict(state); },
                           {"scheduler.load_state_dict", "2 base rates and 1 rates", "1 of each", "Build the"});
  auto before = schedule.state_dict();
  before.last_epoch = -1;
  expect_error<UsageError>([&] { schedule.load_state_dict(before); },
                           {"scheduler.load_state_dict", "last_epoch = -1", "a step of the schedule", "Build the"});
  EXPECT_EQ(schedule.last_epoch(), 1);
}

TEST(Scheduler, ALaterScheduleStartsFromTheBaseRateAlsoWhenItIsCheckedAgainstIt) {
  Accelerator accelerator;
  Mlp net;
  auto [model, optimizer, warm] =
      accelerator.prepare(net, SGD(net->parameters(), 1.0), accelerate::linear({.warmup_steps = 5, .total_steps = 10}));
  EXPECT_EQ(learning_rate(optimizer), 0.0);
  auto decay = accelerator.prepare_scheduler(accelerate::polynomial({.total_steps = 4, .lr_end = 0.5}), optimizer);
  EXPECT_EQ(learning_rate(optimizer), 1.0);
}

}  // namespace
