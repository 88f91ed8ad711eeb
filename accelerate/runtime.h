#pragma once

#include <exception>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/comm/state.h"
#include "accelerate/comm/trigger.h"
#include "accelerate/core/log.h"
#include "accelerate/optim/clip.h"
#include "accelerate/optim/gradient_state.h"
#include "accelerate/plan.h"
#include "accelerate/precision/float32_scope.h"
#include "accelerate/preparation.h"
#include "accelerate/runtime_join.h"
#include "accelerate/runtime_memory.h"
#include "accelerate/step/recorder.h"
#include "accelerate/strategy/uneven_inputs.h"

namespace accelerate::internal {

/// Everything one Accelerator owns, and the order in which it comes and goes.
class Runtime final : private TapeHost {
 public:
  Runtime(Plan plan, LogSink sink);
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Plan& plan() const { return plan_; }
  const Group& group() const { return group_; }
  const Log& log() const { return log_; }
  const ActiveLoaders& active_loaders() const { return *active_loaders_; }
  const std::shared_ptr<SyncSchedule>& sync() const { return sync_; }
  const AcceleratorState& state() const { return state_; }
  GradientState gradient_state() const { return GradientState(sync_, active_loaders_); }
  Trigger& trigger() { return trigger_; }
  /// Null: losses are not scaled.
  const std::shared_ptr<GradScaler>& scaler() const { return scaler_; }
  /// Null: steps are not captured.
  const std::shared_ptr<StepRecorder>& steps() const { return steps_; }
  const std::shared_ptr<OpenJoins>& open_joins() const { return open_joins_; }

  /// Fills in what `items` are prepared as: all of them, or none and an error.
  void prepare(std::span<PrepareItem> items);
  /// Arms every strategy with the loss, runs autograd once, and has every strategy finish.
  void backward(const at::Tensor& loss, const BackwardOptions& options);
  /// At the beginning of a window's last micro-step: makes what the earlier ones have gathered fit it.
  void correct_window();
  /// Every prepared object is let go; training verbs of its handles throw from now on. Accumulation starts anew.
  void release();
  /// Gives memory that the device's allocator keeps back to it.
  void empty_cache() const;
  /// Those that have one of `parameters`.
  std::vector<std::shared_ptr<OptimizerCore>> optimizers_of(const std::vector<at::Tensor>& parameters) const;
  /// Of the optimizers that have one of `parameters`.
  void unscale_gradients_of(const std::vector<at::Tensor>& parameters) const;
  /// Of true gradients, whatever they carry.
  at::Tensor clip_grad_norm(const std::vector<at::Tensor>& parameters, const ClipNormOptions& options,
                            const ParameterName& name = {}) const;
  /// Of every optimizer.
  void unscale_gradients() const;
  /// Whether some optimizer left its last step out.
  bool optimizer_step_was_skipped() const;
  /// Source: `Accelerator::join_uneven_inputs`.
  UnevenJoin join_uneven_inputs(const std::vector<std::shared_ptr<ModelCore>>& models, JoinOptions options);
  /// An error that nobody could be told at the time: the next training verb throws it.
  void keep_error(std::exception_ptr error) noexcept { kept_error_ = std::move(error); }
  /// Who holds the device's memory.
  const std::shared_ptr<MemoryOwners>& memory() const { return memory_; }
  /// Once. Every training verb begins with it.
  void throw_kept_error();
  /// Training verbs of every handle throw from now on, and what only training needs is let go.
  void close() noexcept;

 private:
  void run(const at::Tensor& root, const PassOptions& options) override;
  void repeated(const PassOptions& options) override;
  std::shared_ptr<void> capturing() override;
  void launch(CapturedWork& work) override;
  bool arrives_yet(const at::Tensor& tensor) const override;
  void await_arrivals() override;
  void prepare_updates() const;
  std::shared_ptr<StepRecorder> make_recorder();
  void follow_windows();
  void resolve_updates() noexcept;
  void run_backward(const at::Tensor& loss, const BackwardOptions& options);
  /// Throws UsageError from `verb` where processes without data wait for announced exchanges.
  void require_no_open_join(const char* verb) const;

  Plan plan_;
  Float32Scope float32_;
  Log log_;
  Group group_;
  AcceleratorState state_;
  Trigger trigger_;
  std::shared_ptr<ActiveLoaders> active_loaders_;
  std::shared_ptr<SyncSchedule> sync_;
  std::vector<std::weak_ptr<SyncSchedule>> released_;  ///< those before `sync_`, as long as a handle knows them
  std::shared_ptr<GradScaler> scaler_;
  PreparedObjects prepared_;
  std::shared_ptr<StepRecorder> steps_;
  std::shared_ptr<MemoryOwners> memory_;
  std::shared_ptr<OpenJoins> open_joins_ = std::make_shared<OpenJoins>();
  std::exception_ptr kept_error_;
};

}  // namespace accelerate::internal
