// Rates that are a function of the step.
#include <torch/optim/optimizer.h>

#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/momentum.h"
#include "accelerate/optim/scheduler_core.h"

namespace accelerate::internal {
namespace {

class ScheduleScheduler final : public SchedulerCore {
 public:
  explicit ScheduleScheduler(Schedule schedule) : SchedulerCore(schedule.unit()), schedule_(std::move(schedule)) {}

  std::optional<int64_t> total_steps() const override { return schedule_.total_steps(); }

 private:
  void check_groups(const torch::optim::Optimizer& optimizer, const std::vector<double>& base_rates) const override {
    const std::vector<ScheduledValues> values = values_at(0, base_rates);
    for (size_t i = 0; i < values.size(); ++i) {
      if (!values[i].momentum || momentum_of(optimizer.param_groups()[i].options())) continue;
      throw UsageError({.place = "Scheduler",
                        .what = "The schedule cycles a momentum that the optimizer does not have",
                        .got = "parameter group " + std::to_string(i) + " without momentum or betas",
                        .expected = "torch::optim::SGD, RMSprop, Adam or AdamW",
                        .remedy = "Set .cycle_momentum = false"});
    }
  }

  void begin() override { apply(); }
  void move(int64_t, std::optional<double>) override { apply(); }
  void restore(const std::map<std::string, double>&) override { apply(); }

  std::vector<ScheduledValues> values_at(int64_t step, const std::vector<double>& base_rates) const {
    std::vector<ScheduledValues> values;
    for (size_t i = 0; i < base_rates.size(); ++i) {
      values.push_back(schedule_.at(step, {.base_rate = base_rates[i], .index = i, .count = base_rates.size()}));
    }
    return values;
  }

  /// All values before the first change: a function that throws leaves the rates what they were.
  void apply() {
    const std::vector<ScheduledValues> values = values_at(steps(), base_rates());
    auto& groups = optimizer()->param_groups();
    for (size_t i = 0; i < values.size(); ++i) {
      groups[i].options().set_lr(values[i].rate);
      if (values[i].momentum) set_momentum(groups[i].options(), *values[i].momentum);
    }
  }

  Schedule schedule_;
};

}  // namespace

std::shared_ptr<SchedulerCore> make_scheduler(Schedule schedule) {
  if (!schedule) {
    throw UsageError({.place = "Scheduler",
                      .what = "The schedule is empty",
                      .got = "an empty function",
                      .expected = "constant(), linear(), cosine() or a function of the step",
                      .remedy = "Pass one of them"});
  }
  return std::make_shared<ScheduleScheduler>(std::move(schedule));
}

}  // namespace accelerate::internal
