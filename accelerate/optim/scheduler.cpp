#include "accelerate/optim/scheduler.h"

#include <torch/optim/optimizer.h>

#include <string>

#include "accelerate/core/error.h"

namespace accelerate {
namespace internal {

SchedulerCore::SchedulerCore(std::shared_ptr<torch::optim::Optimizer> optimizer, Schedule schedule,
                             std::vector<double> base_rates)
    : optimizer_(std::move(optimizer)), schedule_(std::move(schedule)), base_rates_(std::move(base_rates)) {
  if (!schedule_) {
    throw UsageError({.place = "Scheduler",
                      .what = "The schedule is empty",
                      .got = "an empty function",
                      .expected = "constant(), linear(), cosine() or a function of the step",
                      .remedy = "Pass one of them"});
  }
  if (optimizer_->param_groups().empty()) {
    throw UsageError({.place = "Scheduler",
                      .what = "The optimizer has no parameter groups",
                      .got = "an optimizer that was moved from, or one made without parameters",
                      .expected = "the optimizer that will step",
                      .remedy = "Build the scheduler from the handle that prepare() returned"});
  }
  apply();
}

void SchedulerCore::advance() {
  ++steps_;
  apply();
}

void SchedulerCore::apply() {
  auto& groups = optimizer_->param_groups();
  if (groups.size() < base_rates_.size()) {
    throw UsageError(
        {.place = "scheduler.step",
         .what = "The optimizer has lost parameter groups",
         .got = std::to_string(groups.size()) + " groups",
         .expected = std::to_string(base_rates_.size()) + ", as when the scheduler was built",
         .remedy = "Do not move the optimizer after building a scheduler from it; use the prepared handle"});
  }
  // A group added since the last step starts from the rate that it has.
  for (size_t i = base_rates_.size(); i < groups.size(); ++i) base_rates_.push_back(groups[i].options().get_lr());
  const double factor = schedule_(steps_);
  for (size_t i = 0; i < groups.size(); ++i) groups[i].options().set_lr(base_rates_[i] * factor);
}

std::vector<double> SchedulerCore::last_lr() const {
  std::vector<double> rates;
  for (const auto& group : optimizer_->param_groups()) rates.push_back(group.options().get_lr());
  return rates;
}

}  // namespace internal

Scheduler::Scheduler(torch::optim::Optimizer& optimizer, Schedule schedule)
    : core_(std::make_shared<internal::SchedulerCore>(
          std::shared_ptr<torch::optim::Optimizer>(std::shared_ptr<void>(), &optimizer), std::move(schedule))) {}

Scheduler::Scheduler(const Optimizer& optimizer, Schedule schedule)
    : core_(std::make_shared<internal::SchedulerCore>(
          std::shared_ptr<torch::optim::Optimizer>(optimizer.core(), &optimizer.core()->inner()), std::move(schedule),
          optimizer.core()->base_rates())) {
  optimizer.core()->remember_base_rates(core_->base_rates());
}

void Scheduler::step() const {
  if (binding_) {
    const SyncSchedule& sync = binding_->optimizer->sync();
    sync.require_open("scheduler.step");
    if (binding_->with_optimizer) {
      if (!sync.sync_gradients()) return;
      const auto& last = binding_->optimizer->last_step();
      if (last && last->skipped()) return;
      for (int64_t i = 0; i < binding_->steps_per_update; ++i) core_->advance();
      return;
    }
  }
  core_->advance();
}

}  // namespace accelerate
