#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/optim/optimizer.h"
#include "accelerate/optim/scheduler_core.h"

namespace accelerate {

/// What this process has seen since the last call of `Scheduler::step`, in the unit of the schedule.
struct Seen {
  int64_t count = 0;  ///< samples or tokens, without those of other processes
};

namespace internal {

/// What preparing adds: when a call of `step()` counts, and for how many.
struct SchedulerBinding {
  std::shared_ptr<OptimizerCore> optimizer;
  bool with_optimizer = true;     ///< `step_scheduler_with_optimizer`
  int64_t steps_per_update = 1;   ///< scheduler steps for one update: one a batch as the loader was given
  bool adjust_scheduler = false;  ///< micro-steps that only accumulate count as well, with the update they belong to
  /// The sum over the processes; reached by all of them. Empty: there is one.
  std::function<int64_t(int64_t)> sum = {};
  /// Throws when the processes have different metrics. Empty: nobody asks.
  std::function<void(double)> compare = {};
};

}  // namespace internal

/// Sets an optimizer's learning rates from a Schedule, or lowers them when a metric stops improving. Not prepared,
/// `step()` always counts; prepared, it counts on a micro-step that synchronises unless the optimizer's last step was
/// skipped, or always with `step_scheduler_with_optimizer = false`. Where only the device knows whether it was, the
/// step counts when the host learns of it: before the next update, or when rates are asked for. For how much an update
/// counts, the unit of the schedule says. A handle, copies share everything. Source:
/// `torch.optim.lr_scheduler.LRScheduler` in `accelerate.scheduler.AcceleratedScheduler`.
class Scheduler {
 public:
  /// The base rates are the groups' rates now; what the schedule has for step 0 is set at once. The optimizer is
  /// borrowed. Throws UsageError for an optimizer without parameter groups (one that was moved from), an empty
  /// schedule, and a momentum to cycle that the optimizer does not have; ConfigError for rates that do not fit its
  /// groups.
  Scheduler(torch::optim::Optimizer& optimizer, Schedule schedule);
  Scheduler(const Optimizer& optimizer, Schedule schedule);
  Scheduler(torch::optim::Optimizer& optimizer, ReduceLROnPlateau options);
  Scheduler(const Optimizer& optimizer, ReduceLROnPlateau options);
  Scheduler(std::shared_ptr<internal::SchedulerCore> core, std::optional<internal::SchedulerBinding> binding)
      : core_(std::move(core)), binding_(std::move(binding)) {}

  /// Throws UsageError for a scheduler that needs a metric or a count, and for steps beyond the end of a schedule
  /// that has one (`one_cycle_lr`); a prepared one that moves with its optimizer stays at the end instead.
  void step() const { take({}); }
  /// For `ReduceLROnPlateau`. Every process passes the same number; `ACCELERATE_DEBUG_MODE=1` compares them.
  void step(double metric) const { take({.metric = metric}); }
  /// The same of a tensor of one element; waits for its device.
  void step(const at::Tensor& metric) const;
  /// For a schedule in samples or tokens: what this process has seen on this micro-step, on every one of them. With
  /// several processes reached by all, since the counts are summed with each update.
  void step(Seen seen) const { take({.seen = seen.count}); }

  /// The rate of each parameter group.
  std::vector<double> get_last_lr() const { return looked_at().last_lr(); }
  /// Scheduler steps taken. Source: `last_epoch`.
  int64_t last_epoch() const { return looked_at().steps(); }

  /// Enough to go on from here in another run: a schedule's rates depend on the step alone. Throws UsageError in the
  /// middle of a window whose counts (`Seen`) several processes still have to add up.
  SchedulerState state_dict() const;
  /// Sets the optimizer's rates, too. Throws UsageError for a state of other groups or another kind of scheduler.
  void load_state_dict(const SchedulerState& state) const { looked_at().load(state); }

  const std::shared_ptr<internal::SchedulerCore>& core() const { return core_; }
  bool is_prepared() const { return binding_.has_value(); }

 private:
  struct Call {
    std::optional<double> metric = {};
    std::optional<int64_t> seen = {};
  };
  /// After the steps that wait for the outcome of an update.
  internal::SchedulerCore& looked_at() const;
  void take(const Call& call) const;
  void check(const Call& call) const;
  internal::SchedulerCore::Waiting amount(const Call& call) const;
  bool counts_micro_steps() const;
  void advance(internal::SchedulerCore::Waiting amount, const Call& call) const;

  std::shared_ptr<internal::SchedulerCore> core_;
  std::optional<internal::SchedulerBinding> binding_;
};

}  // namespace accelerate
