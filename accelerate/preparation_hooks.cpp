// What an optimizer asks of the models whose parameters it has.
#include <ATen/ATen.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "accelerate/comm/group_core.h"
#include "accelerate/preparation.h"

namespace accelerate::internal {
namespace {

using Models = std::vector<std::shared_ptr<ModelCore>>;
using WeakModels = std::vector<std::weak_ptr<ModelCore>>;

/// Those of `models` that have a parameter of the groups.
template <class Groups>
WeakModels partners_of(const Groups& groups, const Models& models) {
  std::unordered_set<const void*> parameters;
  for (const auto& group : groups) {
    for (const at::Tensor& parameter : group.params()) parameters.insert(parameter.unsafeGetTensorImpl());
  }
  WeakModels partners;
  for (const auto& model : models) {
    const auto has = [&](const ParameterRow& row) { return parameters.contains(row.tensor.unsafeGetTensorImpl()); };
    if (std::any_of(model->table().begin(), model->table().end(), has)) partners.push_back(model);
  }
  return partners;
}

at::Tensor mean_over(const Group& group, const at::Tensor& loss) {
  at::Tensor mean = loss.clone().contiguous();
  group.all_reduce(mean, ReduceOp::kMean).wait();
  return mean;
}

[[noreturn]] void throw_scales_would_part(const std::string& model) {
  throw UsageError({.place = "optimizer.step",
                    .what = "Processes that update on their own would scale their losses by factors of their own",
                    .got = "a step of " + model + " inside no_sync, with several processes and a scaled loss",
                    .expected = "gradients that were averaged",
                    .remedy =
                        "Use accelerate::LocalSGD, which makes the scales equal again, or a .mixed_precision that "
                        "scales no loss"});
}

}  // namespace

std::function<bool(const at::Tensor&)> last_to_come(const torch::optim::Optimizer& optimizer, const Models& models,
                                                    const PreparationContext& context) {
  if (!context.steps || context.group.size() == 1) return {};
  return [partners = partners_of(optimizer.param_groups(), models)](const at::Tensor& parameter) {
    return std::ranges::any_of(partners, [&](const std::weak_ptr<ModelCore>& weak) {
      const auto model = weak.lock();
      return model && model->strategy().comes_last(parameter);
    });
  };
}

OptimizerHooks hooks_of(const torch::optim::Optimizer& optimizer, const Models& models,
                        const PreparationContext& context) {
  const auto partners = std::make_shared<WeakModels>(partners_of(optimizer.param_groups(), models));
  OptimizerHooks hooks;
  hooks.memory = context.memory;
  hooks.gradients_spent = [partners] {
    for (const auto& weak : *partners) {
      if (const auto model = weak.lock()) model->loss_weights().reset();
    }
  };
  hooks.admit = [partners, &optimizer, &prepared = context.prepared,
                 &group_of_all = context.group](const torch::optim::OptimizerParamGroup& group) {
    require_known("optimizer.add_param_group", group, optimizer.param_groups().size(),
                  known_parameters(prepared, group_of_all));
    std::vector<torch::optim::OptimizerParamGroup> groups = optimizer.param_groups();
    groups.push_back(group);
    *partners = partners_of(groups, prepared.models);
  };
  if (context.steps) {
    hooks.apart = [steps = std::weak_ptr(context.steps)](const std::function<void()>& work) {
      const auto recorder = steps.lock();
      recorder ? recorder->do_apart(work) : work();
    };
    // Weak: optimizers may outlive the Accelerator, the captured work does not.
    hooks.stepped = [steps = std::weak_ptr(context.steps), sync = context.sync](const OptimizerCore& stepped) {
      if (const auto recorder = steps.lock()) recorder->stepped(&stepped, sync->in_window());
    };
  }
  if (context.group.size() == 1) return hooks;
  const std::weak_ptr<GroupCore> ranks = context.group.core();
  hooks.before_update = [partners, ranks, scaler = context.scaler] {
    if (const auto group = ranks.lock()) group->require_ranks("optimizer.step");
    const bool must_agree = scaler && scaler->is_enabled() && !scaler->may_part();
    for (const auto& weak : *partners) {
      const auto model = weak.lock();
      if (!model) continue;
      if (must_agree && model->stays_local()) throw_scales_would_part(model->module()->name());
      model->before_update();
    }
  };
  hooks.mean_over_ranks = [partners, ranks](const at::Tensor& loss) {
    // Where every gradient stays on its process, so do the decisions, and the number of calls.
    const auto averages = [&](const std::weak_ptr<ModelCore>& weak) {
      const auto model = weak.lock();
      return model && model->ranks() > 1 && model->backward_sync(loss) == GradientSync::kReduce;
    };
    if (std::none_of(partners->begin(), partners->end(), averages)) return loss;
    const auto group = ranks.lock();
    return group ? mean_over(Group(group), loss) : loss;
  };
  return hooks;
}

}  // namespace accelerate::internal
