#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/optim/reduce_on_plateau.h"
#include "accelerate/optim/schedule.h"

namespace torch::optim {
class LRScheduler;
class Optimizer;
class ReduceLROnPlateauScheduler;
}  // namespace torch::optim

namespace accelerate {

/// Where a scheduler is: enough to go on from there. Source: `state_dict` of `torch.optim.lr_scheduler`.
struct SchedulerState {
  int64_t last_epoch = 0;               ///< scheduler steps taken, in the unit of the schedule
  std::vector<double> base_rates = {};  ///< of each parameter group
  std::vector<double> last_lr = {};     ///< of each parameter group
  std::map<std::string, double> numbers =
      {};  ///< what its kind keeps besides: the best metric, what waits for an update
  bool operator==(const SchedulerState&) const = default;
};

namespace internal {

/// What sets one optimizer's learning rates; knows nothing of accumulation. It comes into being with its optimizer or
/// is bound to one later.
class SchedulerCore {
 public:
  virtual ~SchedulerCore() = default;

  /// Null before `bind`.
  torch::optim::Optimizer* optimizer() const { return optimizer_.get(); }
  const std::vector<double>& base_rates() const { return base_rates_; }
  std::vector<double> last_lr() const;
  int64_t steps() const { return steps_; }
  ScheduleUnit unit() const { return unit_; }

  /// Throws UsageError or ConfigError for an optimizer that this cannot drive; changes nothing. Groups beyond
  /// `base_rates` start from the rate that they have.
  void check(const torch::optim::Optimizer& optimizer, const std::vector<double>& base_rates = {}) const;
  /// Checks, and sets the rates for step 0.
  void bind(std::shared_ptr<torch::optim::Optimizer> optimizer, std::vector<double> base_rates = {});
  /// `steps` steps at once. Throws UsageError beyond `total_steps()`.
  void advance(int64_t steps, std::optional<double> metric);

  SchedulerState state() const;
  /// Throws UsageError for a state of another kind of scheduler or of other groups; then nothing has changed.
  void load(const SchedulerState& state);

  virtual bool takes_metric() const { return false; }
  virtual std::optional<int64_t> total_steps() const { return std::nullopt; }
  /// What two cores of one scheduler of the user's have in common.
  virtual const void* identity() const { return this; }
  /// Whether this holds on to the user's optimizer, which then must not be moved.
  virtual bool drives_by_reference() const { return false; }
  /// Whether this was built for an optimizer that it does not name, as LibTorch's schedulers are, and for which.
  virtual bool has_own_optimizer() const { return false; }
  virtual bool was_built_for(torch::optim::Optimizer&) const { return false; }

  /// Steps of micro-steps that wait for the update they belong to: of this process, and of all together.
  struct Waiting {
    int64_t own = 0;
    int64_t all = 0;
    bool counted = false;  ///< some process has counted its own, be it 0
  };
  Waiting waiting = {};

 protected:
  explicit SchedulerCore(ScheduleUnit unit) : unit_(unit) {}
  /// A group that was added joins with the rate that it has. Throws UsageError when groups are gone.
  void count_groups();

 private:
  virtual void check_groups(const torch::optim::Optimizer&, const std::vector<double>& /*base_rates*/) const {}
  virtual void begin() {}
  /// From `steps() - steps` to `steps()`.
  virtual void move(int64_t steps, std::optional<double> metric) = 0;
  virtual void save(std::map<std::string, double>&) const {}
  /// `numbers` holds the names that `save` gives. The rates have been set.
  virtual void restore(const std::map<std::string, double>&) {}
  std::vector<double> joined(const torch::optim::Optimizer& optimizer, std::vector<double> base_rates) const;

  std::shared_ptr<torch::optim::Optimizer> optimizer_;
  std::vector<double> base_rates_;
  int64_t steps_ = 0;
  ScheduleUnit unit_;
};

/// Throws UsageError for an empty schedule.
std::shared_ptr<SchedulerCore> make_scheduler(Schedule schedule);
/// Throws ConfigError for options that cannot be met.
std::shared_ptr<SchedulerCore> make_scheduler(ReduceLROnPlateau options);
/// Null gives null. LibTorch's schedulers hold on to their optimizer, which has to outlive them.
std::shared_ptr<SchedulerCore> make_scheduler(std::shared_ptr<torch::optim::LRScheduler> scheduler);
std::shared_ptr<SchedulerCore> make_scheduler(std::shared_ptr<torch::optim::ReduceLROnPlateauScheduler> scheduler);

}  // namespace internal
}  // namespace accelerate
