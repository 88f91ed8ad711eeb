#include <torch/nn/module.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "accelerate/core/error.h"
#include "accelerate/preparation.h"

namespace accelerate::internal {
namespace {

[[noreturn]] void throw_null(const std::string& kind) {
  throw UsageError({.place = "prepare",
                    .what = "The " + kind + " is null",
                    .got = "an empty holder or pointer",
                    .expected = "one that was built",
                    .remedy = "Build it before preparing it"});
}

[[noreturn]] void throw_released(const std::string& kind) {
  throw UsageError({.place = "prepare",
                    .what = "The " + kind + " was let go by free_memory()",
                    .got = "the handle from before",
                    .expected = "what it was prepared from",
                    .remedy = "Pass the original " + kind});
}

[[noreturn]] void throw_foreign(const std::string& kind) {
  throw UsageError({.place = "prepare",
                    .what = "The " + kind + " was prepared by another Accelerator",
                    .got = "that Accelerator's handle",
                    .expected = "what it was prepared from, or this Accelerator's own handle",
                    .remedy = "Pass the original " + kind});
}

[[noreturn]] void throw_evaluated() {
  throw UsageError({.place = "prepare",
                    .what = "The model was prepared for evaluation only",
                    .got = "it again, without .evaluation_mode",
                    .expected = "prepare_model(model, {.evaluation_mode = true}), or its handle used as it is",
                    .remedy = "To train it, prepare it without .evaluation_mode the first time, or call free_memory() "
                              "before the second"});
}

std::string describe(const at::Tensor& tensor) {
  std::ostringstream out;
  out << tensor.scalar_type() << " " << tensor.sizes();
  return out.str();
}

/// Walks the items of one call and collects what the next ones are checked against.
class Check {
 public:
  Check(const PreparedObjects& prepared, const SyncSchedule& sync, const Group& ranks)
      : prepared_(prepared), sync_(sync), ranks_(ranks), known_(known_parameters(prepared, ranks)) {}

  void model(const ModelItem& item) {
    if (item.module == nullptr) throw_null("model");
    if (item.prepared && item.prepared->owner() != &sync_) {
      item.prepared->owner()->released() ? throw_released("model") : throw_foreign("model");
    }
    for (const ModelCore* evaluated : prepared_.evaluated) {
      if (!item.options.evaluation_mode && is_same_module(evaluated->module(), item.module)) throw_evaluated();
    }
    const bool apart = item.options.evaluation_mode && ranks_.size() > 1;
    learn_parameters(*item.module, apart ? known_.evaluated : known_.trained);
  }

  void loader(const LoaderItem& item) const {
    if (item.loader == nullptr) throw_null("data loader");
    const auto ours = [&](const PreparedObjects::Loader& loader) { return loader.prepared.lock() == item.loader; };
    const bool known = std::any_of(prepared_.loaders.begin(), prepared_.loaders.end(), ours);
    if (!item.loader->is_prepared() || known) return;
    const auto& before = prepared_.released;
    const auto is_it = [&](const std::weak_ptr<LoaderCore>& loader) { return loader.lock() == item.loader; };
    std::any_of(before.begin(), before.end(), is_it) ? throw_released("data loader") : throw_foreign("data loader");
  }

  void optimizer(const OptimizerItem& item) {
    if (item.optimizer == nullptr) throw_null("optimizer");
    if (item.prepared && &item.prepared->sync() != &sync_) {
      item.prepared->sync().released() ? throw_released("optimizer") : throw_foreign("optimizer");
    }
    if (item.optimizer->param_groups().empty()) {
      throw UsageError({.place = "prepare",
                        .what = "The optimizer has no parameter groups",
                        .got = "an optimizer that was moved from, or one made without parameters",
                        .expected = "the optimizer that will step",
                        .remedy = "Pass it by reference, or use the handle that prepare() returned for it"});
    }
    const auto& groups = item.optimizer->param_groups();
    for (size_t i = 0; i < groups.size(); ++i) require_known("prepare", groups[i], i, known_);
    optimizers_.insert(item.optimizer.get());
    if (item.take != nullptr) {
      moved_optimizers_.insert(item.optimizer.get());
    } else {
      kept_optimizers_.insert(item.optimizer.get());
    }
  }

  void scheduler(const SchedulerItem& item) const {
    if (item.scheduler == nullptr) throw_null("schedule");
    const SchedulerCore& scheduler = *item.scheduler;
    if (is_known(scheduler)) return;
    const torch::optim::Optimizer* optimizer = scheduler.optimizer();
    if (optimizer == nullptr && !scheduler.has_own_optimizer()) return of_the_call(scheduler);
    const auto is_its = [&](const auto& prepared) {
      const auto core = prepared.lock();
      if (core == nullptr) return false;
      return optimizer == nullptr ? scheduler.was_built_for(core->inner()) : core->is_for(*optimizer);
    };
    if (std::any_of(prepared_.optimizers.begin(), prepared_.optimizers.end(), is_its)) return;
    const auto is_among = [&](const std::set<torch::optim::Optimizer*>& given) {
      return std::any_of(given.begin(), given.end(), [&](torch::optim::Optimizer* one) {
        return optimizer == nullptr ? scheduler.was_built_for(*one) : one == optimizer;
      });
    };
    if (is_among(kept_optimizers_)) return;
    throw_without_optimizer(is_among(moved_optimizers_));
  }

 private:
  [[noreturn]] static void throw_without_optimizer(bool moved) {
    throw UsageError({.place = "prepare",
                      .what = moved ? "The scheduler's optimizer is moved away by this call"
                                    : "The scheduler's optimizer is not prepared",
                      .got = moved ? "an optimizer given by value and a scheduler built from it"
                                   : "a scheduler over an optimizer that was not given to prepare()",
                      .expected = "its optimizer by reference, in this call or before",
                      .remedy = "Give both to prepare(), the optimizer as an lvalue or std::shared_ptr"});
  }

  bool is_known(const SchedulerCore& scheduler) const {
    return std::any_of(prepared_.schedulers.begin(), prepared_.schedulers.end(), [&](const auto& known) {
      const auto core = known.core.lock();
      return core != nullptr && core->identity() == scheduler.identity() && !known.optimizer.expired();
    });
  }

  /// One that has no optimizer yet, or does not say which, belongs to the one of the call.
  void of_the_call(const SchedulerCore& scheduler) const {
    if (optimizers_.size() != 1) {
      throw UsageError({.place = "prepare",
                        .what = "It is not clear which optimizer the schedule belongs to",
                        .got = "a schedule with " + std::to_string(optimizers_.size()) + " optimizers in the call",
                        .expected = "exactly one optimizer",
                        .remedy = "Pass accelerate::Scheduler(optimizer, schedule) instead of the schedule"});
    }
    if (scheduler.drives_by_reference() && kept_optimizers_.empty()) throw_without_optimizer(/*moved=*/true);
    const torch::optim::Optimizer& optimizer = **optimizers_.begin();
    std::vector<double> base_rates;
    for (const auto& prepared : prepared_.optimizers) {
      const auto core = prepared.lock();
      if (core != nullptr && core->is_for(optimizer)) base_rates = core->base_rates();
    }
    scheduler.check(optimizer, base_rates);  // a schedule that throws must do so before the optimizer is touched
  }

  const PreparedObjects& prepared_;
  const SyncSchedule& sync_;
  const Group& ranks_;
  KnownParameters known_;
  std::set<torch::optim::Optimizer*> optimizers_, kept_optimizers_, moved_optimizers_;  ///< of this call
};

}  // namespace

void place_items(std::span<PrepareItem> items, const PrepareOptions& options) {
  const auto& placement = options.device_placement;
  if (placement.empty()) return;
  if (placement.size() != items.size()) {
    throw UsageError({.place = "prepare",
                      .what = "The placements are not as many as the objects",
                      .got = std::to_string(placement.size()) + " entries of .device_placement for " +
                             std::to_string(items.size()) + " objects",
                      .expected = "one for each, in their order",
                      .remedy = "Write true for those that go to accelerator.device()"});
  }
  for (size_t i = 0; i < items.size(); ++i) {
    std::visit(
        [&](auto& item) {
          if constexpr (requires { item.options; }) item.options.device_placement = placement[i];
        },
        items[i]);
  }
}

void learn_parameters(const torch::nn::Module& module, std::set<const void*>& known) {
  for (const at::Tensor& parameter : module.parameters()) known.insert(parameter.unsafeGetTensorImpl());
}

KnownParameters known_parameters(const PreparedObjects& prepared, const Group& ranks) {
  KnownParameters known;
  for (const auto& model : prepared.models) {
    const bool apart = ranks.size() > 1 && model->ranks() == 1;
    learn_parameters(*model->module(), apart ? known.evaluated : known.trained);
  }
  return known;
}

void require_known(const char* place, const torch::optim::OptimizerParamGroup& group, size_t index,
                   const KnownParameters& known) {
  for (size_t i = 0; i < group.params().size(); ++i) {
    const void* identity = group.params()[i].unsafeGetTensorImpl();
    if (known.trained.contains(identity)) continue;
    const std::string got =
        "parameter " + std::to_string(i) + " of group " + std::to_string(index) + ", " + describe(group.params()[i]);
    if (known.evaluated.contains(identity)) {
      throw UsageError({.place = place,
                        .what = "The optimizer has a parameter of a model that was prepared for evaluation only",
                        .got = got,
                        .expected = "parameters whose gradients are averaged over the processes",
                        .remedy = "Prepare the model without .evaluation_mode, or leave its parameters out"});
    }
    // It would neither move to the device nor be synchronised between ranks.
    throw UsageError({.place = place,
                      .what = "The optimizer has a parameter that belongs to no prepared model",
                      .got = got,
                      .expected = "parameters of models given in this call or before",
                      .remedy = "Give the model to prepare() together with its optimizer; register a free tensor as a "
                                "parameter of a module"});
  }
}

void require_updatable(std::span<const PrepareItem> items, const PrecisionEntry& precision) {
  if (!precision.policy.master_weights && !precision.policy.stochastic_rounding) return;
  for (const PrepareItem& item : items) {
    const auto* optimizer = std::get_if<OptimizerItem>(&item);
    if (optimizer == nullptr || dynamic_cast<torch::optim::LBFGS*>(optimizer->optimizer.get()) == nullptr) continue;
    throw UsageError({.place = "prepare",
                      .what =
                          "The optimizer compares losses at points that lie nearer to each other than parameters of "
                          "16 bits can",
                      .got = "torch::optim::LBFGS with .mixed_precision = \"" + precision.name + "\"",
                      .expected = "an optimizer that takes one gradient a step",
                      .remedy = "Leave .mixed_precision out, or choose one that leaves parameters in float32"});
  }
}

void check_items(std::span<const PrepareItem> items, const PreparedObjects& prepared, const SyncSchedule& sync,
                 const Group& ranks) {
  Check check(prepared, sync, ranks);
  for (const PrepareItem& item : items) {
    if (const auto* model = std::get_if<ModelItem>(&item)) check.model(*model);
    if (const auto* loader = std::get_if<LoaderItem>(&item)) check.loader(*loader);
  }
  for (const PrepareItem& item : items) {
    if (const auto* optimizer = std::get_if<OptimizerItem>(&item)) check.optimizer(*optimizer);
  }
  for (const PrepareItem& item : items) {
    if (const auto* scheduler = std::get_if<SchedulerItem>(&item)) check.scheduler(*scheduler);
  }
}

}  // namespace accelerate::internal
