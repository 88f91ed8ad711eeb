// Every schedule with random options: rates stay rates, warm-ups end where decay begins, and the step says everything.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "tests/unit/any_schedule.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Schedule;
using accelerate::ScheduledGroup;
using accelerate::Scheduler;
using training::any_count;
using training::any_number;
using training::any_schedules;

RC_GTEST_PROP(AnySchedule, NeverGivesARateThatIsNegativeOrNoNumber, ()) {
  const ScheduledGroup group{.base_rate = any_number(0.1, 3)};
  for (const auto& [name, schedule, warmup, reaches_one] : any_schedules()) {
    for (int64_t step = 0; step < 500; step += any_count(1, 3)) {
      const auto values = schedule.at(step, group);
      RC_ASSERT(std::isfinite(values.rate) && values.rate >= 0);
      if (values.momentum) RC_ASSERT(*values.momentum >= 0 && *values.momentum < 1);
    }
    const auto late = schedule.at(int64_t{1} << 40, group);
    RC_ASSERT(std::isfinite(late.rate) && late.rate >= 0);
  }
}

RC_GTEST_PROP(AnySchedule, RisesInEqualStepsUntilTheWarmUpEndsAndGoesOnFromThere, ()) {
  const ScheduledGroup group{.base_rate = any_number(0.1, 3)};
  for (const auto& [name, schedule, warmup, reaches_one] : any_schedules()) {
    if (!reaches_one) continue;
    for (int64_t step = 0; step < warmup; ++step) {
      const double share = static_cast<double>(step) / static_cast<double>(warmup);
      RC_ASSERT(schedule.at(step, group).rate == group.base_rate * share);
    }
    RC_ASSERT(std::abs(schedule.at(warmup, group).rate - group.base_rate) <= 1e-12 * group.base_rate);
  }
}

RC_GTEST_PROP(AnySchedule, IsAFunctionOfTheStepAlone, ()) {
  const ScheduledGroup group{.base_rate = any_number(0.1, 3)};
  for (const auto& [name, schedule, warmup, reaches_one] : any_schedules()) {
    const int64_t step = any_count(0, 400);
    const double before = schedule.at(step, group).rate;
    for (int64_t other = 0; other < 50; ++other) schedule.at(other, group);
    RC_ASSERT(schedule.at(step, group).rate == before);
  }
}

torch::optim::SGD make_sgd(double rate) {
  return torch::optim::SGD({torch::zeros(1).set_requires_grad(true)}, torch::optim::SGDOptions(rate).momentum(0.5));
}

double momentum_of(torch::optim::SGD& sgd) {
  return static_cast<const torch::optim::SGDOptions&>(sgd.param_groups()[0].options()).momentum();
}

RC_GTEST_PROP(AnySchedule, IsResumedFromItsState, ()) {
  const double rate = any_number(0.1, 3);
  for (const auto& [name, schedule, warmup, reaches_one] : any_schedules()) {
    const int64_t longest = schedule.total_steps().value_or(200);
    const int64_t first = any_count(0, longest + 1), rest = any_count(0, longest - first + 1);
    torch::optim::SGD whole = make_sgd(rate), resumed = make_sgd(7.0);
    const Scheduler one(whole, schedule);
    for (int64_t i = 0; i < first; ++i) one.step();
    const auto state = one.state_dict();
    const Scheduler other(resumed, schedule);
    other.load_state_dict(state);
    RC_ASSERT(other.state_dict() == state);
    for (int64_t i = 0; i < rest; ++i) {
      one.step();
      other.step();
    }
    RC_ASSERT(one.get_last_lr() == other.get_last_lr());
    RC_ASSERT(one.last_epoch() == other.last_epoch());
    // Where a part that cycles it has ended, the momentum is the optimizer's own and comes back with its state.
    const ScheduledGroup group{.base_rate = rate};
    if (schedule.at(first + rest, group).momentum) RC_ASSERT(momentum_of(whole) == momentum_of(resumed));
  }
}

RC_GTEST_PROP(AnySchedule, ChainedWithConstantAndHeldPastTheStepsIsWhatItWas, ()) {
  const ScheduledGroup group{.base_rate = any_number(0.1, 3)};
  for (const auto& [name, schedule, warmup, reaches_one] : any_schedules()) {
    const Schedule chain = accelerate::chained({schedule, accelerate::constant()});
    const Schedule held = accelerate::hold_after(schedule, {.step = 60});
    for (int64_t step = 0; step < 120; step += any_count(1, 9)) {
      RC_ASSERT(chain.at(step, group).rate == schedule.at(step, group).rate);
      RC_ASSERT(held.at(step, group).rate == schedule.at(std::min<int64_t>(step, 60), group).rate);
    }
  }
}

RC_GTEST_PROP(AnySchedule, InASequenceCountsFromItsBeginning, ()) {
  const ScheduledGroup group{.base_rate = any_number(0.1, 3)};
  const auto all = any_schedules();
  const auto& [first_name, first, first_warmup, first_one] = all[static_cast<size_t>(any_count(0, 20))];
  const auto& [second_name, second, second_warmup, second_one] = all[static_cast<size_t>(any_count(0, 20))];
  const int64_t milestone = any_count(1, 100);
  const Schedule both = accelerate::sequential({first, second}, {.milestones = {milestone}});
  for (int64_t step = 0; step < 250; ++step) {
    const double expected = step < milestone ? first.at(step, group).rate : second.at(step - milestone, group).rate;
    RC_ASSERT(both.at(step, group).rate == expected);
  }
}

RC_GTEST_PROP(PlateauScheduler, IsResumedFromItsState, ()) {
  const accelerate::ReduceLROnPlateau options{.mode = training::any_of<std::string>({"min", "max"}),
                                              .factor = any_number(0, 0.99),
                                              .patience = any_count(0, 4),
                                              .threshold = any_number(0, 0.2),
                                              .threshold_mode = training::any_of<std::string>({"rel", "abs"}),
                                              .cooldown = any_count(0, 4),
                                              .min_lr = any_number(0, 0.2)};
  const auto metrics = *rc::gen::container<std::vector<int64_t>>(40, rc::gen::inRange<int64_t>(-9, 9));
  const size_t cut = static_cast<size_t>(any_count(0, 41));
  torch::optim::SGD whole = make_sgd(1.0), begun = make_sgd(1.0), resumed = make_sgd(1.0);
  const Scheduler one(whole, options), two(begun, options), three(resumed, options);
  for (const int64_t metric : metrics) one.step(static_cast<double>(metric));
  for (size_t i = 0; i < cut; ++i) two.step(static_cast<double>(metrics[i]));
  three.load_state_dict(two.state_dict());
  for (size_t i = cut; i < metrics.size(); ++i) three.step(static_cast<double>(metrics[i]));
  RC_ASSERT(three.state_dict() == one.state_dict());
  RC_ASSERT(one.get_last_lr()[0] >= std::min(1.0, options.min_lr.of(0)));
}

}  // namespace
