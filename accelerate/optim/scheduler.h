#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/optim/optimizer.h"
#include "accelerate/optim/schedule.h"

namespace accelerate {
namespace internal {

/// A schedule applied to one optimizer's parameter groups; knows nothing of accumulation.
class SchedulerCore {
 public:
  /// Groups beyond `base_rates` start from the rate that they have.
  SchedulerCore(std::shared_ptr<torch::optim::Optimizer> optimizer, Schedule schedule,
                std::vector<double> base_rates = {});
  const std::vector<double>& base_rates() const { return base_rates_; }
  /// One step: group i's rate becomes base rate i times the factor.
  void advance();
  std::vector<double> last_lr() const;
  int64_t steps() const { return steps_; }
  torch::optim::Optimizer& optimizer() const { return *optimizer_; }

 private:
  void apply();
  std::shared_ptr<torch::optim::Optimizer> optimizer_;
  Schedule schedule_;
  std::vector<double> base_rates_;
  int64_t steps_ = 0;
};

/// What preparing adds: when a call of `step()` counts, and for how many.
struct SchedulerBinding {
  std::shared_ptr<OptimizerCore> optimizer;
  bool with_optimizer = true;    ///< `step_scheduler_with_optimizer`
  int64_t steps_per_update = 1;  ///< scheduler steps for one update: one a batch as the loader was given
};

}  // namespace internal

/// Sets an optimizer's learning rates from a Schedule. Not prepared, `step()` always counts; prepared, it counts on a
/// micro-step that synchronises unless the optimizer's last step was skipped, or always with
/// `step_scheduler_with_optimizer = false`. A handle, copies share everything. Source:
/// `torch.optim.lr_scheduler.LambdaLR` in `accelerate.scheduler.AcceleratedScheduler`.
class Scheduler {
 public:
  /// The base rates are the groups' rates now; they are multiplied by `schedule(0)` at once. The optimizer is borrowed.
  /// Throws UsageError for an optimizer without parameter groups (one that was moved from) or an empty schedule.
  Scheduler(torch::optim::Optimizer& optimizer, Schedule schedule);
  Scheduler(const Optimizer& optimizer, Schedule schedule);
  Scheduler(std::shared_ptr<internal::SchedulerCore> core, std::optional<internal::SchedulerBinding> binding)
      : core_(std::move(core)), binding_(std::move(binding)) {}

  void step() const;
  /// The rate of each parameter group.
  std::vector<double> get_last_lr() const { return core_->last_lr(); }
  /// Scheduler steps taken. Source: `last_epoch`.
  int64_t last_epoch() const { return core_->steps(); }

  const std::shared_ptr<internal::SchedulerCore>& core() const { return core_; }
  bool is_prepared() const { return binding_.has_value(); }

 private:
  std::shared_ptr<internal::SchedulerCore> core_;
  std::optional<internal::SchedulerBinding> binding_;
};

}  // namespace accelerate
