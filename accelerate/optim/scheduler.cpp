#include "accelerate/optim/scheduler.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

std::shared_ptr<torch::optim::Optimizer> borrowed(torch::optim::Optimizer& optimizer) {
  return std::shared_ptr<torch::optim::Optimizer>(std::shared_ptr<void>(), &optimizer);
}

std::shared_ptr<internal::SchedulerCore> bound(std::shared_ptr<internal::SchedulerCore> core,
                                               torch::optim::Optimizer& optimizer) {
  core->bind(borrowed(optimizer));
  return core;
}

std::shared_ptr<internal::SchedulerCore> bound(std::shared_ptr<internal::SchedulerCore> core,
                                               const Optimizer& optimizer) {
  const auto& its = internal::held(optimizer.core(), "optimizer");
  core->bind(std::shared_ptr<torch::optim::Optimizer>(its, &its->inner()), its->base_rates());
  its->remember_base_rates(core->base_rates());
  return core;
}

}  // namespace

Scheduler::Scheduler(torch::optim::Optimizer& optimizer, Schedule schedule)
    : core_(bound(internal::make_scheduler(std::move(schedule)), optimizer)) {}

Scheduler::Scheduler(const Optimizer& optimizer, Schedule schedule)
    : core_(bound(internal::make_scheduler(std::move(schedule)), optimizer)) {}

Scheduler::Scheduler(torch::optim::Optimizer& optimizer, ReduceLROnPlateau options)
    : core_(bound(internal::make_scheduler(std::move(options)), optimizer)) {}

Scheduler::Scheduler(const Optimizer& optimizer, ReduceLROnPlateau options)
    : core_(bound(internal::make_scheduler(std::move(options)), optimizer)) {}

void Scheduler::step(const at::Tensor& metric) const {
  if (!metric.defined() || metric.numel() != 1 || metric.is_complex()) {
    std::ostringstream got;
    if (metric.defined()) {
      got << metric.scalar_type() << " of shape " << metric.sizes();
    } else {
      got << "an undefined tensor";
    }
    throw UsageError({.place = "scheduler.step",
                      .what = "The metric is not one number",
                      .got = got.str(),
                      .expected = "a tensor of one real element",
                      .remedy = "Reduce it with mean() or sum() first"});
  }
  step(metric.item<double>());
}

SchedulerState Scheduler::state_dict() const {
  const internal::SchedulerCore& core = looked_at();
  if (binding_ && binding_->sum && core.waiting.counted) {
    throw UsageError({.place = "scheduler.state_dict",
                      .what = "What each process has seen has not been added up yet",
                      .got = std::to_string(core.waiting.own) + " seen by this process in the middle of a window",
                      .expected = "a call after the step that ends the window",
                      .remedy = "Take the state where accelerator.sync_gradients() is true"});
  }
  return core.state();
}

void Scheduler::check(const Call& call) const {
  const auto refuse = [](std::string what, std::string got, std::string expected, std::string remedy) {
    throw UsageError({.place = "scheduler.step",
                      .what = std::move(what),
                      .got = std::move(got),
                      .expected = std::move(expected),
                      .remedy = std::move(remedy)});
  };
  if (core_->takes_metric() && !call.metric) {
    refuse("The scheduler needs the metric that it watches", call.seen ? "step(Seen{...})" : "step() without one",
           "step(metric)", "Pass the loss or score of the validation, the same on every process");
  }
  if (!core_->takes_metric() && call.metric) {
    refuse("The schedule does not depend on a metric", "step(metric)", "step()",
           "Use accelerate::ReduceLROnPlateau to lower rates by a metric");
  }
  const bool counted = core_->unit() == ScheduleUnit::kSamples || core_->unit() == ScheduleUnit::kTokens;
  if (call.seen && !counted) {
    refuse("The schedule does not count what was seen", "step(Seen{" + std::to_string(*call.seen) + "})", "step()",
           "Give the schedule its unit: schedule.in(accelerate::ScheduleUnit::kTokens)");
  }
  if (call.seen && *call.seen < 0) {
    refuse("The count is negative", "step(Seen{" + std::to_string(*call.seen) + "})", "0 or more",
           "Pass what this micro-step has seen");
  }
  if (call.seen || !counted) return;
  if (core_->unit() == ScheduleUnit::kTokens) {
    refuse("The schedule is in tokens, which only you can count", "step() without a count",
           "step(Seen{.count = tokens}) on every micro-step", "Count the tokens of this process's batch");
  }
  if (!binding_ || !binding_->optimizer->sync().batch_samples()) {
    refuse("The schedule is in samples, and no prepared loader is being iterated", "step() without a count",
           "step(Seen{.count = samples}) on every micro-step, or a loop over a prepared loader",
           "Count the samples of this process's batch");
  }
}

/// What a call is worth: counts of this process alone, or of all together.
internal::SchedulerCore::Waiting Scheduler::amount(const Call& call) const {
  if (call.seen) return {.own = *call.seen, .counted = true};
  switch (core_->unit()) {
    case ScheduleUnit::kUpdates:
      return {.all = 1};
    case ScheduleUnit::kSamples:
    case ScheduleUnit::kTokens:
      return {.all = *binding_->optimizer->sync().batch_samples()};
    case ScheduleUnit::kBatches:
      break;
  }
  return {.all = binding_ && binding_->with_optimizer ? binding_->steps_per_update : 1};
}

bool Scheduler::counts_micro_steps() const {
  switch (core_->unit()) {
    case ScheduleUnit::kUpdates:
      return false;
    case ScheduleUnit::kSamples:
    case ScheduleUnit::kTokens:
      return true;
    case ScheduleUnit::kBatches:
      break;
  }
  // A metric is measured once an epoch or so: it has no length that accumulation would change.
  return binding_->adjust_scheduler && !core_->takes_metric();
}

void Scheduler::advance(internal::SchedulerCore::Waiting amount, const Call& call) const {
  if (binding_ && binding_->compare && call.metric) binding_->compare(*call.metric);
  const bool of_ranks = binding_ && binding_->sum && amount.counted;
  int64_t steps = amount.all + (of_ranks ? binding_->sum(amount.own) : amount.own);
  // Several steps at once may pass the end, of which the caller knows nothing. Source: `AcceleratedScheduler.step`.
  if (binding_ && binding_->with_optimizer && core_->total_steps()) {
    steps = std::min(steps, *core_->total_steps() - core_->steps());
  }
  core_->advance(steps, call.metric);
}

void Scheduler::take(const Call& call) const {
  internal::held(core_, "scheduler");
  if (binding_) binding_->optimizer->sync().require_open("scheduler.step");
  check(call);
  const internal::SchedulerCore::Waiting amount = this->amount(call);
  if (!binding_ || !binding_->with_optimizer) return advance(amount, call);
  internal::SchedulerCore::Waiting& waiting = core_->waiting;
  if (!binding_->optimizer->sync().sync_gradients()) {
    if (!counts_micro_steps()) return;
    waiting.own += amount.own;
    waiting.all += amount.all;
    waiting.counted |= amount.counted;
    return;
  }
  const internal::SchedulerCore::Waiting before = std::exchange(waiting, {});
  const internal::SchedulerCore::Waiting total{
      .own = before.own + amount.own, .all = before.all + amount.all, .counted = before.counted || amount.counted};
  // What several processes do together they do at one place of the program.
  const bool together = (binding_->sum && total.counted) || (binding_->compare && call.metric);
  if (together) binding_->optimizer->resolve();
  binding_->optimizer->when_resolved([scheduler = *this, before, total, call](bool skipped) {
    if (skipped) return;
    try {
      scheduler.advance(total, call);
    } catch (...) {
      // The step was none: what waited for it waits on.
      internal::SchedulerCore::Waiting& waiting = scheduler.core_->waiting;
      waiting.own += before.own;
      waiting.all += before.all;
      waiting.counted |= before.counted;
      throw;
    }
  });
}

internal::SchedulerCore& Scheduler::looked_at() const {
  internal::SchedulerCore& core = *internal::held(core_, "scheduler");
  if (binding_) binding_->optimizer->resolve();
  return core;
}

}  // namespace accelerate
