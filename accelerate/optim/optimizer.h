#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <typeindex>
#include <vector>

#include "accelerate/optim/step_result.h"
#include "accelerate/optim/sync_schedule.h"

namespace torch::optim {
class Optimizer;
class OptimizerParamGroup;
}  // namespace torch::optim

namespace accelerate {
namespace internal {

class Update;

/// The shared part of a prepared optimizer.
class OptimizerCore {
 public:
  /// `check` is called before parameters change; it throws where their gradients are not what every rank has.
  OptimizerCore(std::shared_ptr<torch::optim::Optimizer> inner, std::shared_ptr<SyncSchedule> sync,
                std::function<void()> check = {});
  ~OptimizerCore();

  StepResult step();
  void zero_grad();
  torch::optim::Optimizer& inner() const { return *inner_; }
  const SyncSchedule& sync() const { return *sync_; }
  /// Whether this was built for `optimizer`. An address alone does not say so: a borrowed optimizer may be gone and
  /// another one, of another type or another owner, stand in its place.
  bool is_for(const std::shared_ptr<torch::optim::Optimizer>& optimizer) const;
  bool is_for(const torch::optim::Optimizer& optimizer) const;

  /// The groups' rates before any schedule touched them, as far as known: a second schedule must not start from the
  /// rate that the first one's warm-up left. Source: `initial_lr` of `torch.optim.lr_scheduler`.
  const std::vector<double>& base_rates() const { return base_rates_; }
  void remember_base_rates(const std::vector<double>& rates) {
    if (base_rates_.size() < rates.size()) base_rates_ = rates;
  }
  /// Empty before the first call of `step()`.
  const std::optional<StepResult>& last_step() const { return last_step_; }
  /// For who decides outside whether the last step was one: schedulers follow it.
  void record(StepResult result) { last_step_ = result; }
  std::string_view update_name() const;

 private:
  std::shared_ptr<torch::optim::Optimizer> inner_;
  std::shared_ptr<SyncSchedule> sync_;
  std::function<void()> check_;
  std::unique_ptr<Update> update_;
  std::type_index type_;  ///< of *inner_, when this was built
  std::optional<StepResult> last_step_;
  int64_t last_window_ = 0;
  std::vector<double> base_rates_;
};

}  // namespace internal

/// A prepared optimizer: a handle, copies share everything. AdamW, Adam and SGD step through fused kernels on their own
/// state, any other `torch::optim::Optimizer` through its own `step()`.
/// Source: `accelerate.optimizer.AcceleratedOptimizer`.
class Optimizer {
 public:
  explicit Optimizer(std::shared_ptr<internal::OptimizerCore> core) : core_(std::move(core)) {}

  /// Updates the parameters if the micro-step ends an accumulation window. Throws UsageError for a second step in one
  /// window, a missing window, or after training has ended.
  StepResult step() const { return core_->step(); }

  /// Drops the gradients of this optimizer's parameters if the micro-step ends an accumulation window.
  /// Source: `zero_grad(set_to_none=True)`.
  void zero_grad() const { core_->zero_grad(); }

  /// The stock optimizer's groups: `optimizer.param_groups()[0].options().set_lr(0.1)`.
  std::vector<torch::optim::OptimizerParamGroup>& param_groups() const;

  /// The stock optimizer, for what takes one: `torch::optim::StepLR(optimizer, 10)`.
  /// There is no `->`: `optimizer->step()` would pass by accumulation, a letter away from `optimizer.step()`.
  operator torch::optim::Optimizer&() const { return core_->inner(); }  // NOLINT: converting is the purpose

  const std::shared_ptr<internal::OptimizerCore>& core() const { return core_; }

 private:
  std::shared_ptr<internal::OptimizerCore> core_;
};

}  // namespace accelerate
