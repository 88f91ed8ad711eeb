#include "accelerate/optim/reduce_on_plateau.h"

#include <torch/optim/optimizer.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "accelerate/optim/scheduler_core.h"
#include "accelerate/optim/schedules/checks.h"

namespace accelerate::internal {
namespace {

class PlateauScheduler final : public SchedulerCore {
 public:
  explicit PlateauScheduler(ReduceLROnPlateau options)
      : SchedulerCore(options.unit), options_(std::move(options)), best_(worst()) {
    checks_.one_of(".mode", options_.mode, {"min", "max"});
    checks_.one_of(".threshold_mode", options_.threshold_mode, {"rel", "abs"});
    checks_.rate(".factor", options_.factor);
    if (options_.factor >= 1) {
      checks_.refuse("A reduction does not reduce", ".factor = " + number(options_.factor), "a number below 1",
                     "Lower .factor");
    }
    checks_.at_least(".patience", options_.patience, 0);
    checks_.at_least(".cooldown", options_.cooldown, 0);
    checks_.rate(".threshold", options_.threshold);
    checks_.rate(".eps", options_.eps);
    checks_.rates(".min_lr", options_.min_lr);
    if (options_.unit != ScheduleUnit::kBatches && options_.unit != ScheduleUnit::kUpdates) {
      checks_.refuse("A metric has no samples or tokens", "that .unit", "ScheduleUnit::kBatches or kUpdates",
                     "Choose one of the two");
    }
  }

  bool takes_metric() const override { return true; }

 private:
  double worst() const {
    const double infinity = std::numeric_limits<double>::infinity();
    return options_.mode == "max" ? -infinity : infinity;
  }

  bool improves(double metric) const {
    const bool relative = options_.threshold_mode == "rel";
    if (options_.mode == "min") {
      return metric < (relative ? best_ * (1.0 - options_.threshold) : best_ - options_.threshold);
    }
    return metric > (relative ? best_ * (options_.threshold + 1.0) : best_ + options_.threshold);
  }

  void check_groups(const torch::optim::Optimizer&, const std::vector<double>& base_rates) const override {
    checks_.fits(".min_lr", options_.min_lr, {.count = base_rates.size()});
  }

  void move(int64_t steps, std::optional<double> metric) override {
    checks_.fits(".min_lr", options_.min_lr, {.count = base_rates().size()});
    for (int64_t i = 0; i < steps; ++i) take(*metric);
  }

  void take(double metric) {
    if (improves(metric)) {
      best_ = metric;
      bad_steps_ = 0;
    } else {
      ++bad_steps_;
    }
    if (cooldown_ > 0) {
      --cooldown_;
      bad_steps_ = 0;
    }
    if (bad_steps_ <= options_.patience) return;
    reduce();
    cooldown_ = options_.cooldown;
    bad_steps_ = 0;
  }

  void reduce() {
    auto& groups = optimizer()->param_groups();
    for (size_t i = 0; i < groups.size(); ++i) {
      const double rate = groups[i].options().get_lr();
      const double lower = std::max(rate * options_.factor, options_.min_lr.of(i));
      if (rate - lower > options_.eps) groups[i].options().set_lr(lower);
    }
  }

  void save(std::map<std::string, double>& numbers) const override {
    numbers["best"] = best_;
    numbers["num_bad_epochs"] = static_cast<double>(bad_steps_);
    numbers["cooldown_counter"] = static_cast<double>(cooldown_);
  }

  void restore(const std::map<std::string, double>& numbers) override {
    best_ = numbers.at("best");
    bad_steps_ = static_cast<int64_t>(numbers.at("num_bad_epochs"));
    cooldown_ = static_cast<int64_t>(numbers.at("cooldown_counter"));
  }

  ReduceLROnPlateau options_;
  ScheduleChecks checks_{"ReduceLROnPlateau"};
  double best_;
  int64_t bad_steps_ = 0;
  int64_t cooldown_ = 0;
};

}  // namespace

std::shared_ptr<SchedulerCore> make_scheduler(ReduceLROnPlateau options) {
  return std::make_shared<PlateauScheduler>(std::move(options));
}

}  // namespace accelerate::internal
