#include "accelerate/preparation.h"

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "accelerate/comm/random_state.h"
#include "accelerate/optim/master_weights.h"
#include "accelerate/optim/move_state.h"
#include "accelerate/optim/scheduler_ranks.h"
#include "accelerate/optim/update.h"
#include "accelerate/precision/convert_module.h"

namespace accelerate::internal {
namespace {

template <class List, class Predicate>
auto* find_in(List& list, Predicate predicate) {
  const auto found = std::find_if(list.begin(), list.end(), predicate);
  return found == list.end() ? nullptr : &*found;
}

/// With the gradients that are there, which LibTorch's own `to` leaves behind.
void move(torch::nn::Module& module, c10::Device device) {
  module.to(device);
  for (at::Tensor& parameter : module.parameters()) {
    at::Tensor& gradient = parameter.mutable_grad();
    if (gradient.defined() && gradient.device() != parameter.device()) gradient = gradient.to(parameter.device());
  }
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
    const auto same = [&](const auto& model) { return is_same_module(model->module(), item.module); };
    if (const auto* known = find_in(all_.models, same)) {
      item.prepared = *known;
      return;
    }
    const Plan& plan = context_.plan;
    c10::Device device = plan.device;
    if (places(item.options.device_placement)) {
      move(*item.module, device);
    } else if (const auto parameters = item.module->parameters(); !parameters.empty()) {
      device = parameters.front().device();
    }
    // Nobody shares a model that is only evaluated.
    const Group ranks = item.options.evaluation_mode ? Group() : context_.group;
    PrecisionPolicy policy = plan.precision.policy;
    policy.master_weights = policy.master_weights && !item.options.evaluation_mode;
    auto rounded = convert_module(*item.module, policy);
    try {
      item.prepared =
          std::make_shared<ModelCore>(item.module, device, policy, plan.strategy.make(plan.strategy_options), ranks,
                                      context_.sync, context_.log, context_.steps);
    } catch (...) {
      for (RoundedParameter& one : rounded) one.parameter.set_data(one.original);
      throw;
    }
    item.prepared->explain_memory(context_.memory);
    if (policy.master_weights) keep_masters(*item.prepared, rounded, ranks);
    all_.models.push_back(item.prepared);
    if (item.options.evaluation_mode) all_.evaluated.push_back(item.prepared.get());
  }

  void optimizer(OptimizerItem& item) {
    if (item.prepared == nullptr) item.prepared = find_optimizer(item.optimizer);
    if (item.prepared == nullptr) {
      if (item.take != nullptr) item.optimizer = item.take(*item.optimizer);
      list_each_once(*item.optimizer);
      if (places(item.options.device_placement)) move_state(*item.optimizer);
      item.prepared = std::make_shared<OptimizerCore>(item.optimizer, context_.sync,
                                                      hooks_of(*item.optimizer, all_.models, context_), item.set_mode,
                                                      context_.scaler);
      const PrecisionPolicy& policy = context_.plan.precision.policy;
      if (policy.param) widen_state(*item.optimizer, *policy.param);
      item.prepared->update_with(
          {.counters = context_.steps ? Counters::kOnDevice : Counters::kWithParameters,
           .masters = policy.master_weights ? Masters::kFloat32 : Masters::kNone,
           .weights = policy.master_weights ? masters() : nullptr,
           .rounding_seed = policy.stochastic_rounding ? std::optional(common_seed()) : std::nullopt,
           .comes_last = last_to_come(*item.optimizer, all_.models, context_)});
      all_.optimizers.push_back(item.prepared);
    }
    last_optimizer_ = item.prepared;
  }

  void loader(LoaderItem& item) {
    for (const auto& known : all_.loaders) {
      item.prepared = known.prepared.lock();
      if (item.prepared && (known.given.lock() == item.loader || item.prepared == item.loader)) return;
    }
    const Plan& plan = context_.plan;
    item.prepared = item.loader->prepared({.device = plan.device,
                                           .move = places(item.options.device_placement),
                                           .active = context_.active_loaders,
                                           .shard = {.rank = context_.group.rank(),
                                                     .size = context_.group.size(),
                                                     .even_batches = plan.data.even_batches,
                                                     .split_batches = plan.data.split_batches},
                                           .group = context_.group,
                                           .non_blocking = plan.data.non_blocking,
                                           .draw_seed = draw_seed(),
                                           .data_seed = plan.data.data_seed,
                                           .before_pass = before_pass()});
    all_.loaders.push_back({item.loader, item.prepared});
  }

  void scheduler(SchedulerItem& item) {
    std::shared_ptr<OptimizerCore> optimizer;
    for (const auto& known : all_.schedulers) {
      const auto core = known.core.lock();
      if (core == nullptr || core->identity() != item.scheduler->identity()) continue;
      optimizer = known.optimizer.lock();
      if (optimizer != nullptr) item.scheduler = core;
    }
    if (optimizer == nullptr) {
      SchedulerCore& scheduler = *item.scheduler;
      if (scheduler.optimizer() != nullptr) {
        optimizer = find_optimizer(*scheduler.optimizer());
      } else {
        optimizer = scheduler.has_own_optimizer() ? find_built_for(scheduler) : last_optimizer_;
        scheduler.bind(std::shared_ptr<torch::optim::Optimizer>(optimizer, &optimizer->inner()),
                       optimizer->base_rates());
      }
      optimizer->remember_base_rates(scheduler.base_rates());
      all_.schedulers.push_back({item.scheduler, optimizer});
    }
    item.prepared = {.optimizer = std::move(optimizer),
                     .with_optimizer = context_.plan.step_scheduler_with_optimizer,
                     .steps_per_update = context_.plan.data.split_batches ? 1 : context_.group.size(),
                     .adjust_scheduler = context_.plan.accumulation.adjust_scheduler};
    if (context_.group.size() == 1) return;
    // Weak: a handle may outlive the Accelerator, whose group ends with it; then no call comes as far as here.
    const std::weak_ptr<GroupCore> core = context_.group.core();
    const c10::Device device = context_.plan.device;
    item.prepared.sum = [core, device, joins = context_.open_joins](int64_t own) {
      joins->require_none(Counted::kSteps);
      return sum_over_ranks(Group(core.lock()), device, own);
    };
    if (!context_.plan.debug) return;
    item.prepared.compare = [core, device](double metric) {
      require_equal_metrics(Group(core.lock()), device, metric);
    };
  }

 private:
  const std::shared_ptr<MasterWeights>& masters() {
    if (all_.masters == nullptr) all_.masters = std::make_shared<MasterWeights>();
    return all_.masters;
  }

  /// Those of frozen layers would be memory for nothing. The strategy has made what is rounded equal on all ranks.
  void keep_masters(ModelCore& model, std::vector<RoundedParameter>& rounded, const Group& ranks) {
    std::erase_if(rounded, [](const RoundedParameter& one) { return !one.parameter.requires_grad(); });
    for (RoundedParameter& one : rounded) {
      if (ranks.size() > 1) {
        one.original = one.original.contiguous();
        ranks.broadcast(one.original).wait();
      }
      masters()->adopt(one.parameter, one.original);
    }
    model.know_masters(masters());
  }

  /// Replicas have to round alike.
  int64_t common_seed() const { return static_cast<int64_t>(draw_common_seed(context_.group)); }

  bool places(std::optional<bool> asked) const { return asked.value_or(context_.plan.setup.device_placement); }

  /// Brings the random states together that `rng_types` names; empty where there are none. The loader's own follows
  /// from the seed of its order, which is rank 0's in any case.
  std::function<void()> before_pass() const {
    std::vector<std::string> types = context_.plan.setup.rng_types;
    std::erase(types, "generator");
    if (types.empty() || context_.group.size() == 1) return {};
    return [types = std::move(types), group = context_.group, sync = context_.sync, device = context_.plan.device] {
      // After training each process may go on alone; a loader that was let go still deals out what all share.
      if (!sync->closed() || sync->released()) synchronize_rng_states(group, types, device, nullptr);
    };
  }

  /// Of a pass's order, rank 0's for all; empty with the seedable sampler.
  std::function<uint64_t()> draw_seed() const {
    if (context_.plan.data.use_seedable_sampler) return {};
    return [group = context_.group, sync = context_.sync] {
      return draw_common_seed(sync->closed() && !sync->released() ? Group() : group);
    };
  }

  template <class Inner>
  std::shared_ptr<OptimizerCore> find_optimizer(const Inner& inner) const {
    for (const auto& optimizer : all_.optimizers) {
      auto core = optimizer.lock();
      if (core && core->is_for(inner)) return core;
    }
    return nullptr;
  }

  std::shared_ptr<OptimizerCore> find_built_for(const SchedulerCore& scheduler) const {
    for (const auto& optimizer : all_.optimizers) {
      auto core = optimizer.lock();
      if (core && scheduler.was_built_for(core->inner())) return core;
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
