#include "accelerate/runtime.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <set>
#include <sstream>

#include "accelerate/accelerator.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::string describe(const at::Tensor& tensor) {
  std::ostringstream out;
  out << tensor.scalar_type() << " " << tensor.sizes();
  return out.str();
}

[[noreturn]] void throw_null(const std::string& kind) {
  throw UsageError({.place = "prepare",
                    .what = "The " + kind + " is null",
                    .got = "an empty holder or pointer",
                    .expected = "a " + kind + " that was built",
                    .remedy = "Build it before preparing it"});
}

[[noreturn]] void throw_foreign(const std::string& kind) {
  throw UsageError({.place = "prepare",
                    .what = "The " + kind + " was prepared by another Accelerator",
                    .got = "that Accelerator's handle",
                    .expected = "what it was prepared from, or this Accelerator's own handle",
                    .remedy = "Pass the original " + kind});
}

void check_groups(const torch::optim::Optimizer& optimizer) {
  if (!optimizer.param_groups().empty()) return;
  throw UsageError({.place = "prepare",
                    .what = "The optimizer has no parameter groups",
                    .got = "an optimizer that was moved from, or one made without parameters",
                    .expected = "the optimizer that will step",
                    .remedy = "Pass it by reference, or use the handle that prepare() returned for it"});
}

/// Parameters outside every prepared model would neither move to the device nor be synchronised between ranks.
void check_membership(const torch::optim::Optimizer& optimizer, const std::set<const void*>& known) {
  for (size_t g = 0; g < optimizer.param_groups().size(); ++g) {
    const auto& parameters = optimizer.param_groups()[g].params();
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (known.contains(parameters[i].unsafeGetTensorImpl())) continue;
      throw UsageError(
          {.place = "prepare",
           .what = "The optimizer has a parameter that belongs to no prepared model",
           .got = "parameter " + std::to_string(i) + " of group " + std::to_string(g) + ", " + describe(parameters[i]),
           .expected = "parameters of models given in this call or before",
           .remedy = "Give the model to prepare() together with its optimizer; register a free tensor as a "
                     "parameter of a module"});
    }
  }
}

}  // namespace

Runtime::Runtime(Plan plan, LogSink sink)
    : plan_(std::move(plan)),
      log_(std::move(sink), plan_.world.rank),
      active_(std::make_shared<ActiveLoaders>()),
      sync_(std::make_shared<SyncSchedule>(
          SyncSchedule::Rule{.num_steps = plan_.accumulation.num_steps,
                             .sync_with_dataloader = plan_.accumulation.sync_with_dataloader},
          active_)) {}

void Runtime::check(std::span<const PrepareItem> items) const {
  sync_->require_open("prepare");
  std::set<const void*> known;
  const auto learn = [&](const torch::nn::Module& module) {
    for (const at::Tensor& parameter : module.parameters()) known.insert(parameter.unsafeGetTensorImpl());
  };
  for (const auto& model : prepared_.models) learn(*model->module());
  int64_t optimizers = 0;
  for (const PrepareItem& item : items) {
    if (const auto* model = std::get_if<ModelItem>(&item)) {
      if (model->module == nullptr) throw_null("model");
      if (model->prepared && model->prepared->owner() != sync_.get()) throw_foreign("model");
      learn(*model->module);
    } else if (const auto* loader = std::get_if<LoaderItem>(&item)) {
      const auto ours = [&](const Prepared::LoaderPair& pair) { return pair.prepared == loader->loader; };
      const auto& loaders = prepared_.loaders;
      if (loader->loader->is_prepared() && std::none_of(loaders.begin(), loaders.end(), ours))
        throw_foreign("data loader");
    }
  }
  for (const PrepareItem& item : items) {
    const auto* optimizer = std::get_if<OptimizerItem>(&item);
    if (optimizer == nullptr) continue;
    ++optimizers;
    if (optimizer->optimizer == nullptr) throw_null("optimizer");
    if (optimizer->prepared && &optimizer->prepared->sync() != sync_.get()) throw_foreign("optimizer");
    check_groups(*optimizer->optimizer);
    check_membership(*optimizer->optimizer, known);
  }
  for (const PrepareItem& item : items) {
    const auto* scheduler = std::get_if<SchedulerItem>(&item);
    if (scheduler == nullptr || scheduler->scheduler != nullptr || optimizers == 1) continue;
    throw UsageError({.place = "prepare",
                      .what = "It is not clear which optimizer the schedule belongs to",
                      .got = "a schedule with " + std::to_string(optimizers) + " optimizers in the call",
                      .expected = "exactly one optimizer",
                      .remedy = "Pass accelerate::Scheduler(optimizer, schedule) instead of the schedule"});
  }
}

void Runtime::build(ModelItem& item, Prepared& all) const {
  const auto same = [&](const auto& model) { return model->module() == item.module; };
  const auto found = std::find_if(all.models.begin(), all.models.end(), same);
  if (found != all.models.end()) {
    item.prepared = *found;
    return;
  }
  item.module->to(plan_.device);
  item.prepared =
      std::make_shared<ModelCore>(item.module, plan_.device, plan_.precision.policy, plan_.strategy.make(), sync_);
  all.models.push_back(item.prepared);
}

void Runtime::build(OptimizerItem& item, Prepared& all) const {
  const auto same = [&](const auto& optimizer) { return &optimizer->inner() == item.optimizer.get(); };
  const auto found = std::find_if(all.optimizers.begin(), all.optimizers.end(), same);
  if (found != all.optimizers.end()) {
    item.prepared = *found;
    return;
  }
  item.prepared = std::make_shared<OptimizerCore>(item.optimizer, sync_);
  all.optimizers.push_back(item.prepared);
}

void Runtime::build(LoaderItem& item, Prepared& all) const {
  for (const auto& [given, prepared] : all.loaders) {
    if (given != item.loader && prepared != item.loader) continue;
    item.prepared = prepared;
    return;
  }
  item.prepared = item.loader->prepared({.device = plan_.device, .active = active_});
  all.loaders.push_back({item.loader, item.prepared});
}

void Runtime::build(SchedulerItem& item, const std::shared_ptr<OptimizerCore>& default_optimizer, Prepared& all) const {
  for (const auto& [core, binding] : all.schedulers) {
    if (core != item.scheduler) continue;
    item.prepared = binding;
    return;
  }
  item.prepared = {.optimizer = default_optimizer,
                   .with_optimizer = plan_.step_scheduler_with_optimizer,
                   .steps_per_update = group_.size()};
  if (item.scheduler != nullptr) {
    const auto same = [&](const auto& optimizer) { return &optimizer->inner() == &item.scheduler->optimizer(); };
    const auto found = std::find_if(all.optimizers.begin(), all.optimizers.end(), same);
    if (found == all.optimizers.end()) {
      throw UsageError(
          {.place = "prepare",
           .what = "The scheduler's optimizer is not prepared",
           .got = "a scheduler over an optimizer that was not given to prepare()",
           .expected = "its optimizer in this call or before",
           .remedy = "Give both to prepare(); if the optimizer was moved, build the scheduler from its handle"});
    }
    item.prepared.optimizer = *found;
  } else {
    const std::shared_ptr<torch::optim::Optimizer> inner(default_optimizer, &default_optimizer->inner());
    item.scheduler = std::make_shared<SchedulerCore>(inner, item.schedule);
  }
  all.schedulers.push_back({item.scheduler, item.prepared});
}

void Runtime::prepare(std::span<PrepareItem> items) {
  check(items);
  Prepared all = prepared_;
  const auto each = [&]<class Item>(std::type_identity<Item>, auto&& action) {
    for (PrepareItem& item : items) {
      if (auto* of_kind = std::get_if<Item>(&item)) action(*of_kind);
    }
  };
  std::shared_ptr<OptimizerCore> last_optimizer;
  each(std::type_identity<ModelItem>{}, [&](ModelItem& item) { build(item, all); });
  each(std::type_identity<OptimizerItem>{}, [&](OptimizerItem& item) {
    build(item, all);
    last_optimizer = item.prepared;
  });
  each(std::type_identity<LoaderItem>{}, [&](LoaderItem& item) { build(item, all); });
  // Bare schedules come last: building one sets its optimizer's rate, which must not happen if something else fails.
  each(std::type_identity<SchedulerItem>{}, [&](SchedulerItem& item) {
    if (item.scheduler != nullptr) build(item, last_optimizer, all);
  });
  each(std::type_identity<SchedulerItem>{}, [&](SchedulerItem& item) {
    if (item.scheduler == nullptr) build(item, last_optimizer, all);
  });
  prepared_ = std::move(all);
}

void Runtime::backward(const at::Tensor& loss, const BackwardOptions& options) {
  sync_->require_open("backward");
  sync_->require_window("backward");
  if (!loss.defined() || !loss.requires_grad() || loss.numel() != 1) {
    throw UsageError(
        {.place = "backward",
         .what = "The loss cannot be differentiated",
         .got = !loss.defined()     ? "an undefined tensor"
                : loss.numel() != 1 ? "a tensor of " + describe(loss)
                                    : "a tensor without a graph",
         .expected = "one number computed from a model's parameters",
         .remedy = "Reduce the loss with mean() or sum(), and compute it outside a no-grad guard from parameters "
                   "that require gradients"});
  }
  const int64_t num_steps = sync_->num_steps();
  const at::Tensor scaled = num_steps == 1 ? loss : loss / num_steps;
  const GradientSync sync = sync_->sync_gradients() ? GradientSync::kReduce : GradientSync::kAccumulate;
  for (const auto& model : prepared_.models) model->strategy().before_backward(scaled, sync);
  torch::autograd::backward({scaled}, /*grad_tensors=*/{},
                            /*retain_graph=*/options.retain_graph || options.create_graph, options.create_graph);
  for (const auto& model : prepared_.models) model->strategy().after_backward();
}

}  // namespace accelerate::internal
