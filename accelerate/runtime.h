#pragma once

#include <memory>
#include <span>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"
#include "accelerate/plan.h"
#include "accelerate/prepare.h"

namespace accelerate {

struct BackwardOptions;

namespace internal {

/// Everything one Accelerator owns, and the order in which it comes and goes.
class Runtime {
 public:
  Runtime(Plan plan, LogSink sink);

  const Plan& plan() const { return plan_; }
  const Group& group() const { return group_; }
  const Log& log() const { return log_; }
  const ActiveLoaders& active_loaders() const { return *active_; }
  const std::shared_ptr<SyncSchedule>& sync() const { return sync_; }

  /// Fills in what `items` are prepared as: all of them, or none and an error.
  void prepare(std::span<PrepareItem> items);
  void backward(const at::Tensor& loss, const BackwardOptions& options);
  /// Training verbs of every handle throw from now on.
  void close() noexcept { sync_->close(); }

 private:
  struct Prepared {
    std::vector<std::shared_ptr<ModelCore>> models;
    std::vector<std::shared_ptr<OptimizerCore>> optimizers;
    struct LoaderPair {
      std::shared_ptr<LoaderCore> given;
      std::shared_ptr<LoaderCore> prepared;
    };
    std::vector<LoaderPair> loaders;
    struct SchedulerPair {
      std::shared_ptr<SchedulerCore> core;
      SchedulerBinding binding;
    };
    std::vector<SchedulerPair> schedulers;
  };

  void check(std::span<const PrepareItem> items) const;
  void build(ModelItem& item, Prepared& all) const;
  void build(OptimizerItem& item, Prepared& all) const;
  void build(LoaderItem& item, Prepared& all) const;
  void build(SchedulerItem& item, const std::shared_ptr<OptimizerCore>& default_optimizer, Prepared& all) const;

  Plan plan_;
  Log log_;
  Group group_;
  std::shared_ptr<ActiveLoaders> active_;
  std::shared_ptr<SyncSchedule> sync_;
  Prepared prepared_;
};

}  // namespace internal
}  // namespace accelerate
