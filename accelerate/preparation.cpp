#include "accelerate/preparation.h"

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <algorithm>

namespace accelerate::internal {
namespace {

template <class List, class Predicate>
auto* find_in(List& list, Predicate predicate) {
  const auto found = std::find_if(list.begin(), list.end(), predicate);
  return found == list.end() ? nullptr : &*found;
}

/// Builds one item at a time into the list of all that is prepared; what is there already is used again.
class Build {
 public:
  Build(PreparedObjects& all, const PreparationContext& context) : all_(all), context_(context) {
    std::erase_if(all_.optimizers, [](const auto& optimizer) { return optimizer.expired(); });
    std::erase_if(all_.loaders, [](const auto& loader) { return loader.given.expired() && loader.prepared.expired(); });
    std::erase_if(all_.schedulers, [](const auto& scheduler) { return scheduler.core.expired(); });
  }

  void model(ModelItem& item) {
    const auto same = [&](const auto& model) { return model->module() == item.module; };
    if (const auto* known = find_in(all_.models, same)) {
      item.prepared = *known;
      return;
    }
    const Plan& plan = context_.plan;
    item.module->to(plan.device);
    item.prepared = std::make_shared<ModelCore>(item.module, plan.device, plan.precision.policy, plan.strategy.make(),
                                                context_.group, context_.sync);
    all_.models.push_back(item.prepared);
  }

  void optimizer(OptimizerItem& item) {
    if (item.prepared == nullptr) item.prepared = find_optimizer(item.optimizer);
    if (item.prepared == nullptr) {
      if (item.take != nullptr) item.optimizer = item.take(*item.optimizer);
      item.prepared = std::make_shared<OptimizerCore>(item.optimizer, context_.sync);
      all_.optimizers.push_back(item.prepared);
    }
    last_optimizer_ = item.prepared;
  }

  void loader(LoaderItem& item) {
    for (const auto& known : all_.loaders) {
      item.prepared = known.prepared.lock();
      if (item.prepared && (known.given.lock() == item.loader || item.prepared == item.loader)) return;
    }
    item.prepared = item.loader->prepared({.device = context_.plan.device, .active = context_.active_loaders});
    all_.loaders.push_back({item.loader, item.prepared});
  }

  void scheduler(SchedulerItem& item) {
    const auto same = [&](const auto& known) { return item.scheduler && known.core.lock() == item.scheduler; };
    const auto* known = find_in(all_.schedulers, same);
    std::shared_ptr<OptimizerCore> optimizer = known != nullptr ? known->optimizer.lock() : nullptr;
    if (optimizer == nullptr) {
      optimizer = item.scheduler ? find_optimizer(item.scheduler->optimizer()) : last_optimizer_;
      if (item.scheduler == nullptr) item.scheduler = Scheduler(Optimizer(optimizer), item.schedule).core();
      optimizer->remember_base_rates(item.scheduler->base_rates());
      all_.schedulers.push_back({item.scheduler, optimizer});
    }
    item.prepared = {.optimizer = std::move(optimizer),
                     .with_optimizer = context_.plan.step_scheduler_with_optimizer,
                     .steps_per_update = context_.group.size()};
  }

 private:
  template <class Inner>
  std::shared_ptr<OptimizerCore> find_optimizer(const Inner& inner) const {
    for (const auto& optimizer : all_.optimizers) {
      auto core = optimizer.lock();
      if (core && core->is_for(inner)) return core;
    }
    return nullptr;
  }

  PreparedObjects& all_;
  const PreparationContext& context_;
  std::shared_ptr<OptimizerCore> last_optimizer_;  ///< of this call
};

template <class Item, class Action>
void for_each_of(std::span<PrepareItem> items, Action action) {
  for (PrepareItem& item : items) {
    if (auto* of_kind = std::get_if<Item>(&item)) action(*of_kind);
  }
}

}  // namespace

PreparedObjects build_items(std::span<PrepareItem> items, PreparedObjects prepared, const PreparationContext& context) {
  Build build(prepared, context);
  for_each_of<ModelItem>(items, [&](ModelItem& item) { build.model(item); });
  for_each_of<LoaderItem>(items, [&](LoaderItem& item) { build.loader(item); });
  for_each_of<OptimizerItem>(items, [&](OptimizerItem& item) { build.optimizer(item); });
  // Last, since building one from a schedule sets its optimizer's rates.
  for_each_of<SchedulerItem>(items, [&](SchedulerItem& item) { build.scheduler(item); });
  return prepared;
}

}  // namespace accelerate::internal
