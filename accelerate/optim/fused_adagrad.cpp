// Adagrad through LibTorch's fused kernel, on the stock optimizer's own sums and step counts.
#include <ATen/ATen.h>
#include <torch/optim/adagrad.h>

#include <map>
#include <utility>
#include <vector>

#include "accelerate/optim/fused_update.h"

namespace accelerate::internal {
namespace {

using Options = torch::optim::AdagradOptions;
using State = torch::optim::AdagradParamState;

/// Tensors of one kernel call, element i of each list belonging together.
struct Lists {
  std::vector<at::Tensor> parameters, gradients, sums, steps;
  std::vector<State*> states;
};

class FusedAdagrad final : public FusedUpdate {
 public:
  using FusedUpdate::FusedUpdate;
  std::string_view name() const override { return "fused adagrad"; }

 private:
  bool has_operator() const override { return false; }

  /// LibTorch's Adagrad makes its state when it is built, and fails at parameters added later.
  void start_state() override {
    for (auto& group : optimizer_.param_groups()) {
      const double start = static_cast<const Options&>(group.options()).initial_accumulator_value();
      for (const at::Tensor& parameter : group.params()) {
        if (optimizer_.state().count(parameter.unsafeGetTensorImpl()) != 0) continue;
        auto fresh = std::make_unique<State>();
        fresh->step(0);
        fresh->sum(at::full_like(parameter, start, {}, at::MemoryFormat::Preserve));
        optimizer_.state().emplace(parameter.unsafeGetTensorImpl(), std::move(fresh));
      }
    }
  }

  bool takes_state(const torch::optim::OptimizerParamGroup&, const at::Tensor& parameter) const override {
    return fits_beside(parameter, state_of(parameter).sum());
  }

  void step_group(const Group& group) override {
    const auto& options = static_cast<const Options&>(group.options.options());
    // One call a kind of tensor and step count, as for Adam: a rate that decays depends on the count.
    std::map<std::pair<int64_t, Kind>, Lists> calls;
    for (const at::Tensor& parameter : group.options.params()) {
      if (!parameter.grad().defined()) continue;
      State& state = state_of(parameter);
      state.step(state.step() + 1);  // now, since a parameter may be listed twice
      Lists& lists = calls[{state.step(), kind_of(parameter)}];
      lists.states.push_back(&state);
      lists.parameters.push_back(parameter);
      lists.gradients.push_back(parameter.grad());
      lists.sums.push_back(state.sum());
    }
    while (!calls.empty()) {
      auto& [key, lists] = *calls.begin();
      const auto on = lists.parameters.front().options().dtype(at::kFloat);
      try {
        lists.steps.assign(lists.parameters.size(), at::scalar_tensor(static_cast<double>(key.first), on));
        at::_fused_adagrad_(lists.parameters, lists.gradients, lists.sums, lists.steps, options.lr(),
                            options.lr_decay(), options.weight_decay(), options.eps(), /*maximize=*/false);
      } catch (...) {
        // What was refused has stepped nothing.
        for (auto& [left, refused] : calls) {
          for (State* state : refused.states) state->step(state->step() - 1);
        }
        throw;
      }
      calls.erase(calls.begin());
    }
  }

  State& state_of(const at::Tensor& parameter) const {
    return static_cast<State&>(*optimizer_.state().at(parameter.unsafeGetTensorImpl()));
  }
};

}  // namespace

std::unique_ptr<Update> make_fused_adagrad(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  return std::make_unique<FusedAdagrad>(optimizer, std::move(options));
}

}  // namespace accelerate::internal
