#pragma once

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/plan.h"
#include "accelerate/prepare.h"
#include "accelerate/step/recorder.h"
#include "accelerate/strategy/uneven_inputs.h"

namespace accelerate::internal {

/// What one Accelerator has prepared so far. Models stay until training ends, since a backward pass has to reach them
/// also when their handle is gone. The rest belongs to its handles: an optimizer or data set without one is forgotten.
struct PreparedObjects {
  struct Loader {
    std::weak_ptr<LoaderCore> given;
    std::weak_ptr<LoaderCore> prepared;
  };
  struct Schedule {
    std::weak_ptr<SchedulerCore> core;
    std::weak_ptr<OptimizerCore> optimizer;
  };
  std::vector<std::shared_ptr<ModelCore>> models;
  std::vector<const ModelCore*> evaluated;  ///< those of `models` that were prepared for evaluation alone
  std::vector<std::weak_ptr<OptimizerCore>> optimizers;
  std::vector<Loader> loaders;
  std::vector<Schedule> schedulers;
  std::shared_ptr<MasterWeights> masters;           ///< of all models; null: the precision has none
  std::vector<std::weak_ptr<LoaderCore>> released;  ///< loaders that were prepared before `free_memory`
};

/// What preparing an object needs from its Accelerator.
struct PreparationContext {
  const Plan& plan;
  const Group& group;
  const Log& log;
  std::shared_ptr<SyncSchedule> sync;
  std::shared_ptr<ActiveLoaders> active_loaders;
  std::shared_ptr<const OpenJoins> open_joins;
  std::shared_ptr<GradScaler> scaler;    ///< null: losses are not scaled
  std::shared_ptr<StepRecorder> steps;   ///< null: nothing is captured
  std::shared_ptr<MemoryOwners> memory;  ///< who is asked when there is none left
  /// The Accelerator's own list, which outlives every call of an optimizer that `sync` lets through.
  const PreparedObjects& prepared;
};

/// Gives each item its entry of `options.device_placement`. Throws UsageError unless there are as many, or none.
void place_items(std::span<PrepareItem> items, const PrepareOptions& options);

/// Throws UsageError for the first item that cannot be prepared; changes nothing.
void check_items(std::span<const PrepareItem> items, const PreparedObjects& prepared, const SyncSchedule& sync,
                 const Group& ranks);

/// Throws UsageError for an optimizer that cannot step in this precision; changes nothing.
void require_updatable(std::span<const PrepareItem> items, const PrecisionEntry& precision);

/// Parameters that an optimizer may have, and those it may not since nothing keeps them equal on all ranks.
struct KnownParameters {
  std::set<const void*> trained;
  std::set<const void*> evaluated;  ///< with several ranks: of models that were prepared for evaluation alone
};
KnownParameters known_parameters(const PreparedObjects& prepared, const Group& ranks);
void learn_parameters(const torch::nn::Module& module, std::set<const void*>& known);
/// Throws UsageError from `place` for a parameter of `group`, the optimizer's group `index`, that it may not have.
void require_known(const char* place, const torch::optim::OptimizerParamGroup& group, size_t index,
                   const KnownParameters& known);

/// What an optimizer asks of the models whose parameters it has, `models` being those there are now.
OptimizerHooks hooks_of(const torch::optim::Optimizer& optimizer, const std::vector<std::shared_ptr<ModelCore>>& models,
                        const PreparationContext& context);
/// For `UpdateOptions`: which of its gradients come from the other ranks last. Empty: none.
std::function<bool(const at::Tensor&)> last_to_come(const torch::optim::Optimizer& optimizer,
                                                    const std::vector<std::shared_ptr<ModelCore>>& models,
                                                    const PreparationContext& context);

/// Builds checked items in two passes: models, optimizers and loaders, then schedulers, so that a scheduler may stand
/// before its optimizer. Fills in the items and returns `prepared` with what is new. Source: `Accelerator.prepare`.
PreparedObjects build_items(std::span<PrepareItem> items, PreparedObjects prepared, const PreparationContext& context);

}  // namespace accelerate::internal
