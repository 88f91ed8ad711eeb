#include "accelerate/optim/scheduler_core.h"

#include <torch/optim/optimizer.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal {

std::vector<double> SchedulerCore::last_lr() const {
  std::vector<double> rates;
  for (const auto& group : optimizer_->param_groups()) rates.push_back(group.options().get_lr());
  return rates;
}

std::vector<double> SchedulerCore::joined(const torch::optim::Optimizer& optimizer,
                                          std::vector<double> base_rates) const {
  const auto& groups = optimizer.param_groups();
  for (size_t i = base_rates.size(); i < groups.size(); ++i) base_rates.push_back(groups[i].options().get_lr());
  return base_rates;
}

void SchedulerCore::check(const torch::optim::Optimizer& optimizer, const std::vector<double>& base_rates) const {
  if (optimizer.param_groups().empty()) {
    throw UsageError({.place = "Scheduler",
                      .what = "The optimizer has no parameter groups",
                      .got = "an optimizer that was moved from, or one made without parameters",
                      .expected = "the optimizer that will step",
                      .remedy = "Build the scheduler from the handle that prepare() returned"});
  }
  check_groups(optimizer, joined(optimizer, base_rates));
}

void SchedulerCore::bind(std::shared_ptr<torch::optim::Optimizer> optimizer, std::vector<double> base_rates) {
  check(*optimizer, base_rates);
  base_rates_ = joined(*optimizer, std::move(base_rates));
  optimizer_ = std::move(optimizer);
  begin();
}

void SchedulerCore::count_groups() {
  const auto& groups = std::as_const(*optimizer_).param_groups();
  if (groups.size() < base_rates_.size()) {
    throw UsageError(
        {.place = "scheduler.step",
         .what = "The optimizer has lost parameter groups",
         .got = std::to_string(groups.size()) + " groups",
         .expected = std::to_string(base_rates_.size()) + ", as when the scheduler was built",
         .remedy = "Do not move the optimizer after building a scheduler from it; use the prepared handle"});
  }
  if (groups.size() > base_rates_.size()) base_rates_ = joined(*optimizer_, std::move(base_rates_));
}

void SchedulerCore::advance(int64_t steps, std::optional<double> metric) {
  if (steps == 0) return;
  count_groups();
  const int64_t last = total_steps().value_or(std::numeric_limits<int64_t>::max());
  if (steps > last - steps_) {
    throw UsageError({.place = "scheduler.step",
                      .what = "The schedule has ended",
                      .got = "step " + std::to_string(steps_) + " + " + std::to_string(steps),
                      .expected = "at most .total_steps = " + std::to_string(last),
                      .remedy = "Give the schedule the number of scheduler steps of the whole training"});
  }
  steps_ += steps;
  try {
    move(steps, metric);
  } catch (...) {
    steps_ -= steps;
    throw;
  }
}

SchedulerState SchedulerCore::state() const {
  SchedulerState state{.last_epoch = steps_, .base_rates = base_rates_, .last_lr = last_lr()};
  state.numbers["waiting"] = static_cast<double>(waiting.own);
  state.numbers["waiting_of_all"] = static_cast<double>(waiting.all);
  save(state.numbers);
  return state;
}

void SchedulerCore::load(const SchedulerState& state) {
  const size_t groups = optimizer_->param_groups().size();
  const auto refuse = [](std::string got, std::string expected) {
    throw UsageError({.place = "scheduler.load_state_dict",
                      .what = "The state is not that of such a scheduler",
                      .got = std::move(got),
                      .expected = std::move(expected),
                      .remedy = "Build the scheduler and its optimizer as when the state was taken"});
  };
  if (state.base_rates.size() != groups || state.last_lr.size() != groups) {
    refuse(
        std::to_string(state.base_rates.size()) + " base rates and " + std::to_string(state.last_lr.size()) + " rates",
        std::to_string(groups) + " of each, one for a parameter group");
  }
  if (state.last_epoch < 0 || state.last_epoch > total_steps().value_or(std::numeric_limits<int64_t>::max())) {
    refuse("last_epoch = " + std::to_string(state.last_epoch), "a step of the schedule");
  }
  std::string missing;
  for (const auto& [name, value] : this->state().numbers) {
    if (!state.numbers.contains(name)) missing += (missing.empty() ? "" : ", ") + name;
  }
  if (!missing.empty()) refuse("no " + missing, "the numbers of this kind of scheduler");
  steps_ = state.last_epoch;
  base_rates_ = state.base_rates;
  waiting = {.own = static_cast<int64_t>(state.numbers.at("waiting")),
             .all = static_cast<int64_t>(state.numbers.at("waiting_of_all"))};
  for (size_t i = 0; i < groups; ++i) optimizer_->param_groups()[i].options().set_lr(state.last_lr[i]);
  restore(state.numbers);
}

}  // namespace accelerate::internal
