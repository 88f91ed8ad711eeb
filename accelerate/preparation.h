#pragma once

#include <memory>
#include <span>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/plan.h"
#include "accelerate/prepare.h"

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
  std::vector<std::weak_ptr<OptimizerCore>> optimizers;
  std::vector<Loader> loaders;
  std::vector<Schedule> schedulers;
};

/// What preparing an object needs from its Accelerator.
struct PreparationContext {
  const Plan& plan;
  const Group& group;
  const Log& log;
  std::shared_ptr<SyncSchedule> sync;
  std::shared_ptr<ActiveLoaders> active_loaders;
};

/// Throws UsageError for the first item that cannot be prepared; changes nothing.
void check_items(std::span<const PrepareItem> items, const PreparedObjects& prepared, const SyncSchedule& sync);

/// Builds checked items in two passes: models, optimizers and loaders, then schedulers, so that a scheduler may stand
/// before its optimizer. Fills in the items and returns `prepared` with what is new. Source: `Accelerator.prepare`.
PreparedObjects build_items(std::span<PrepareItem> items, PreparedObjects prepared, const PreparationContext& context);

}  // namespace accelerate::internal
