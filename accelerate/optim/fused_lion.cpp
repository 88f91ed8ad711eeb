// Lion through one operator, on its own momenta.
#include <ATen/ATen.h>

#include <map>
#include <utility>
#include <vector>

#include "accelerate/optim/fused_update.h"
#include "accelerate/optim/kernels/operators.h"
#include "accelerate/optim/lion.h"

namespace accelerate::internal {
namespace {

/// Tensors of one call, element i of each list belonging together.
struct Lists {
  std::vector<at::Tensor> parameters, copies, gradients, momenta, followers;
  /// The model's own.
  const std::vector<at::Tensor>& own() const { return copies.empty() ? parameters : copies; }
};

/// LibTorch has no kernel for it: wherever parameters are, ours does it.
class FusedLion final : public FusedUpdate {
 public:
  FusedLion(torch::optim::Optimizer& optimizer, UpdateOptions options)
      : FusedUpdate(optimizer, {.counters = Counters::kOnDevice,
                                .masters = options.masters,
                                .weights = std::move(options.weights),
                                .rounding_seed = options.rounding_seed}) {}
  std::string_view name() const override { return "fused lion"; }

 private:
  bool takes_state(const torch::optim::OptimizerParamGroup&, const at::Tensor& parameter) const override {
    const auto found = optimizer_.state().find(parameter.unsafeGetTensorImpl());
    return found == optimizer_.state().end() ||
           fits_state(parameter, static_cast<const LionParamState&>(*found->second).exp_avg());
  }

  void step_group(const Group& group) override {
    const auto& options = static_cast<const LionOptions&>(group.options.options());
    const auto [beta1, beta2] = options.betas();
    std::map<Kind, Lists> calls;
    for (const at::Tensor& parameter : group.options.params()) {
      if (!parameter.grad().defined()) continue;
      Lists& lists = calls[kind_of(parameter)];
      const at::Tensor& updated = this->updated(parameter);
      lists.parameters.push_back(updated);
      if (!updated.is_same(parameter)) lists.copies.push_back(parameter);
      lists.gradients.push_back(parameter.grad());
      lists.momenta.push_back(momentum_of(parameter));
      lists.followers.push_back(average_of(parameter));
    }
    for (auto& [kind, lists] : calls) {
      kernels::fused_lion(lists_of(lists), lists.momenta, rate_of(group, lists.parameters.front().device()),
                          {beta1, beta2, options.weight_decay()}, verdict());
    }
  }

  /// Beginning with 0 is the same whether or not the first update is left out.
  at::Tensor momentum_of(const at::Tensor& parameter) {
    auto& states = optimizer_.state();
    auto found = states.find(parameter.unsafeGetTensorImpl());
    if (found == states.end()) {
      auto fresh = std::make_unique<LionParamState>();
      fresh->exp_avg(zero_state(parameter));
      found = states.emplace(parameter.unsafeGetTensorImpl(), std::move(fresh)).first;
    }
    return static_cast<LionParamState&>(*found->second).exp_avg();
  }
};

}  // namespace

std::unique_ptr<Update> make_fused_lion(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  return std::make_unique<FusedLion>(optimizer, std::move(options));
}

}  // namespace accelerate::internal
