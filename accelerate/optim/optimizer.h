#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>
#include <typeindex>
#include <vector>

#include "accelerate/core/handle.h"
#include "accelerate/optim/step_result.h"
#include "accelerate/optim/sync_schedule.h"

namespace torch::optim {
class Optimizer;
class OptimizerParamGroup;
}  // namespace torch::optim

namespace accelerate {

class GradScaler;

struct ZeroGradOptions {
  bool set_to_none = true;  ///< false: gradients that are there become zero and keep their memory
};

namespace internal {

class EmaCore;
class MemoryOwners;
class OptimizerCore;
class ScaledGradients;
class Update;
class UpdateOutcomes;
struct UpdateOptions;

/// What a prepared optimizer asks of the models whose parameters it has, and of the ranks. An empty one is left out.
struct OptimizerHooks {
  std::function<void()> before_update = {};    ///< throws where the gradients are not what every rank has
  std::function<void()> gradients_spent = {};  ///< they were applied or dropped
  /// Throws UsageError for parameters of no prepared model, else the hooks count them in from now on.
  std::function<void(const torch::optim::OptimizerParamGroup& group)> admit = {};
  std::function<at::Tensor(const at::Tensor& loss)> mean_over_ranks = {};
  /// Does what must not be captured as a part of the step.
  std::function<void(const std::function<void()>& work)> apart = {};
  std::function<void(const OptimizerCore& optimizer)> stepped = {};  ///< at the end of `step()`, whatever it did
  std::weak_ptr<const MemoryOwners> memory = {};                     ///< who is asked when a step finds no memory left
};

enum class OptimizerMode { kTrain, kEval };
/// Calls `train()` or `eval()` of an optimizer that has them.
using SetOptimizerMode = void (*)(torch::optim::Optimizer& optimizer, OptimizerMode mode);

/// The shared part of a prepared optimizer.
class OptimizerCore {
 public:
  OptimizerCore(std::shared_ptr<torch::optim::Optimizer> inner, std::shared_ptr<SyncSchedule> sync,
                OptimizerHooks hooks = {}, SetOptimizerMode set_mode = nullptr,
                const std::shared_ptr<GradScaler>& scaler = {});
  ~OptimizerCore();

  /// With an empty closure the gradients that are there are applied.
  StepResult step(const std::function<at::Tensor()>& closure = {});
  void zero_grad(ZeroGradOptions options = {});
  void add_param_group(const torch::optim::OptimizerParamGroup& group);
  void set_mode(OptimizerMode mode);
  /// Divides the gradients by the loss scale unless that has been done; nothing without one.
  void unscale_gradients();
  /// The same together with a clip at this 2-norm, where that takes fewer passes over the gradients, which must be all
  /// that this optimizer has. Returns the norm; nothing, and does nothing, otherwise.
  std::optional<at::Tensor> clip_scaled(const std::vector<at::Tensor>& parameters, double max_norm);

  /// Before a step, and before what records its operators: brings the host's learning rates to the device if they have
  /// changed. Waits for nothing.
  void prepare_step();
  /// Whether the device has the rates of the next update: never where the host passes them with each, and not as long
  /// as a schedule waits to learn whether the last one was skipped.
  bool rates_are_uploaded() const;
  /// Waits until it is known whether the last update was skipped; the host's counts of updates and the schedules follow
  /// it then. Whoever looks at the optimizer's state or rates calls it before.
  void resolve();
  /// Calls `follow` with whether the last step was skipped: now if that is known, else in `resolve()`.
  void when_resolved(std::function<void(bool skipped)> follow);
  /// From the next step on. Masters begin with the parameters as they are.
  void update_with(const UpdateOptions& options);
  UpdateOptions update_options() const;
  /// These averages follow each step, as long as they live. Throws UsageError where others do.
  void lead(const std::shared_ptr<EmaCore>& averages);
  bool leads() const { return !averages_.expired(); }
  /// The float32 that a parameter is the rounded copy of; null: it has none, or none yet.
  const at::Tensor* master_of(const at::Tensor& parameter) const;

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
  void record(const StepResult& result);
  /// Whether the last step that was due was left out.
  bool step_was_skipped() const { return last_due_ && last_due_->skipped(); }
  std::string_view update_name() const;

 private:
  StepResult step_once(const std::function<at::Tensor()>& closure);
  at::Tensor losses(const std::function<at::Tensor()>& closure) const;
  StepResult update(const std::function<at::Tensor()>& closure);
  std::shared_ptr<torch::optim::Optimizer> inner_;
  std::shared_ptr<SyncSchedule> sync_;
  OptimizerHooks hooks_;
  SetOptimizerMode set_mode_;
  std::unique_ptr<const UpdateOptions> update_options_;
  std::unique_ptr<Update> update_;
  std::weak_ptr<EmaCore> averages_;           ///< that follow each step
  std::shared_ptr<ScaledGradients> scaled_;   ///< null: losses are not scaled
  std::type_index type_;                      ///< of *inner_, when this was built
  std::unique_ptr<UpdateOutcomes> outcomes_;  ///< null: the device has decided about no update
  std::optional<StepResult> last_step_;
  std::optional<StepResult> last_due_;
  /// Until the outcome of the last update is known.
  struct Unresolved {
    StepResult result;
    std::vector<std::function<void(bool skipped)>> followers = {};
  };
  std::optional<Unresolved> unresolved_;
  int64_t last_window_ = 0;
  std::vector<double> base_rates_;
};

/// Leaves each parameter in its first place: `module.parameters()` lists a tied one under each of its names, and it
/// would be stepped as often. Source: Python's `parameters()`, which lists it once.
void list_each_once(torch::optim::Optimizer& optimizer);

}  // namespace internal

/// A prepared optimizer: a handle, copies share everything. AdamW, Adam, SGD, Adagrad and Lion step through fused
/// kernels on their own state, any other `torch::optim::Optimizer` through its own `step()`. Every call throws
/// UsageError after training has ended and after `free_memory`. Source: `accelerate.optimizer.AcceleratedOptimizer`.
class Optimizer {
 public:
  explicit Optimizer(std::shared_ptr<internal::OptimizerCore> core) : core_(std::move(core)) {}

  /// Updates the parameters if the micro-step ends an accumulation window. Throws UsageError for a second step in one
  /// window, a missing window, or after training has ended.
  StepResult step() const { return used().step(); }

  /// For optimizers that ask for the loss again, such as `LBFGS`, and for any other: `closure` drops the gradients,
  /// runs the model and `accelerator.backward(loss)`, and returns the loss, one number. On a micro-step that does not
  /// end a window it is not called: with accumulation it has to go over the whole window's batches itself. With several
  /// processes the optimizer sees the mean of their losses, so that all of them take the same decisions. Throws
  /// UsageError like `step()`, and for a closure that returns no loss.
  template <class Closure>
  requires std::is_invocable_r_v<at::Tensor, Closure&> StepResult step(Closure closure)
  const { return used().step(std::function<at::Tensor()>(std::move(closure))); }

  /// Drops the gradients of this optimizer's parameters if the micro-step ends an accumulation window.
  void zero_grad(ZeroGradOptions options = {}) const { used().zero_grad(options); }

  /// The stock optimizer's groups: `optimizer.param_groups()[0].options().set_lr(0.1)`.
  std::vector<torch::optim::OptimizerParamGroup>& param_groups() const;

  /// A further group, with the optimizer's defaults where it has no options of its own. Throws UsageError for
  /// parameters of no prepared model, or of a group that there is already; one listed twice in the group is taken once.
  void add_param_group(const torch::optim::OptimizerParamGroup& group) const { used().add_param_group(group); }

  /// `train()` and `eval()` of an optimizer of yours that has them (schedule-free ones do), given to `prepare` under
  /// its own type; nothing for others.
  void train() const { used().set_mode(internal::OptimizerMode::kTrain); }
  void eval() const { used().set_mode(internal::OptimizerMode::kEval); }

  /// Whether the last step that was due was left out because a gradient was not finite.
  bool step_was_skipped() const { return used().step_was_skipped(); }

  /// The stock optimizer, for what takes one: `torch::optim::StepLR(optimizer, 10)`.
  /// There is no `->`: `optimizer->step()` would pass by accumulation, a letter away from `optimizer.step()`.
  operator torch::optim::Optimizer&() const { return looked_at().inner(); }  // NOLINT: converting is the purpose

  const std::shared_ptr<internal::OptimizerCore>& core() const { return core_; }

 private:
  internal::OptimizerCore& used() const { return *internal::held(core_, "optimizer"); }
  internal::OptimizerCore& looked_at() const {
    used().resolve();
    return used();
  }
  std::shared_ptr<internal::OptimizerCore> core_;
};

}  // namespace accelerate
