// Adam and AdamW through fused kernels, on the stock optimizer's own state tensors and step counts.
#include <ATen/ATen.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <map>
#include <utility>
#include <vector>

#include "accelerate/optim/fused_update.h"
#include "accelerate/optim/kernels/operators.h"

namespace accelerate::internal {
namespace {

struct AdamW {
  using Options = torch::optim::AdamWOptions;
  using State = torch::optim::AdamWParamState;
  static constexpr std::string_view kName = "fused adamw";
  static constexpr auto kDecay = kernels::Decay::kDecoupled;
};
struct Adam {
  using Options = torch::optim::AdamOptions;
  using State = torch::optim::AdamParamState;
  static constexpr std::string_view kName = "fused adam";
  static constexpr auto kDecay = kernels::Decay::kGradient;
};

/// The kernels' scalars, named: their order (lr, beta1, beta2, weight_decay, eps) is easily swapped.
struct Scalars {
  double lr, beta1, beta2, weight_decay, eps;
  bool amsgrad;
};

/// Tensors of one kernel call, element i of each list belonging together.
struct Lists {
  std::vector<at::Tensor> parameters, copies, gradients, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, followers, steps;
  /// The model's own.
  const std::vector<at::Tensor>& own() const { return copies.empty() ? parameters : copies; }
};

void run(AdamW, Lists& l, const Scalars& s) {
  at::_fused_adamw_(l.parameters, l.gradients, l.exp_avgs, l.exp_avg_sqs, l.max_exp_avg_sqs, l.steps, s.lr, s.beta1,
                    s.beta2, s.weight_decay, s.eps, s.amsgrad, /*maximize=*/false);
}
void run(Adam, Lists& l, const Scalars& s) {
  at::_fused_adam_(l.parameters, l.gradients, l.exp_avgs, l.exp_avg_sqs, l.max_exp_avg_sqs, l.steps, s.lr, s.beta1,
                   s.beta2, s.weight_decay, s.eps, s.amsgrad, /*maximize=*/false);
}

template <class Which>
class FusedAdam final : public FusedUpdate {
  using Options = typename Which::Options;
  using State = typename Which::State;

 public:
  using FusedUpdate::FusedUpdate;
  std::string_view name() const override { return Which::kName; }

 private:
  bool takes_state(const torch::optim::OptimizerParamGroup& group, const at::Tensor& parameter) const override {
    const auto& all = optimizer_.state();
    const auto found = all.find(parameter.unsafeGetTensorImpl());
    if (found == all.end()) return true;
    const auto& state = static_cast<const State&>(*found->second);
    const bool amsgrad = static_cast<const Options&>(group.options()).amsgrad() && state.max_exp_avg_sq().defined();
    return fits_state(parameter, state.exp_avg()) && fits_state(parameter, state.exp_avg_sq()) &&
           (!amsgrad || fits_state(parameter, state.max_exp_avg_sq()));
  }

  void make_states(torch::optim::OptimizerParamGroup& group) override {
    const bool amsgrad = static_cast<const Options&>(group.options()).amsgrad();
    for (const at::Tensor& parameter : group.params()) {
      if (parameter.grad().defined()) state_of(parameter, amsgrad);
    }
  }

  void step_group(const Group& group) override {
    const auto& options = static_cast<const Options&>(group.options.options());
    const auto [beta1, beta2] = options.betas();
    const Scalars scalars{options.lr(), beta1, beta2, options.weight_decay(), options.eps(), options.amsgrad()};
    if (group.index == 0) stepped_.clear();
    // One call a kind of tensor and step count. Usually there is one; a parameter whose gradient was missing at times
    // has a count of its own.
    struct Call {
      at::Tensor parameter;  ///< one of them
      Lists lists;
      std::vector<State*> states;
      void reserve(size_t count) {
        states.reserve(count);
        for (auto* list : {&lists.parameters, &lists.gradients, &lists.exp_avgs, &lists.exp_avg_sqs}) {
          list->reserve(count);
        }
      }
    };
    std::map<std::pair<int64_t, Kind>, Call> calls;
    for (const at::Tensor& parameter : group.options.params()) {
      if (!parameter.grad().defined()) continue;
      const at::Tensor& updated = this->updated(parameter);
      State& state = state_of(parameter, scalars.amsgrad);
      state.step(state.step() + 1);  // now, since a parameter may be listed twice
      Call& call = calls[{state.step(), kind_of(parameter)}];
      if (call.states.empty()) call.reserve(group.options.params().size());
      call.parameter = parameter;
      call.states.push_back(&state);
      call.lists.parameters.push_back(updated);
      if (!updated.is_same(parameter)) call.lists.copies.push_back(parameter);
      call.lists.gradients.push_back(parameter.grad());
      call.lists.exp_avgs.push_back(state.exp_avg());
      call.lists.exp_avg_sqs.push_back(state.exp_avg_sq());
      if (scalars.amsgrad) call.lists.max_exp_avg_sqs.push_back(state.max_exp_avg_sq());
      call.lists.followers.push_back(average_of(parameter));
    }
    while (!calls.empty()) {
      auto& [key, call] = *calls.begin();
      try {
        if (on_device(call.parameter)) {
          run_on_device(group, call.lists, scalars, key.first);
        } else {
          // A small kernel with the count as its argument: nothing is copied.
          const auto on = call.lists.parameters.front().options().dtype(at::kFloat);
          call.lists.steps.assign(call.lists.parameters.size(), at::scalar_tensor(static_cast<double>(key.first), on));
          run(Which{}, call.lists, scalars);
        }
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

  /// The update that makes the count `count`.
  void run_on_device(const Group& group, Lists& lists, const Scalars& s, int64_t count) {
    const c10::Device device = lists.parameters.front().device();
    const at::Tensor updates = counts().of(count - 1, device);
    kernels::fused_adam(lists_of(lists), {lists.exp_avgs, lists.exp_avg_sqs, lists.max_exp_avg_sqs},
                        {updates, rate_of(group, device)}, {s.beta1, s.beta2, s.weight_decay, s.eps, Which::kDecay},
                        verdict());
    counts().counted_on(updates);
    if (!verdict().skip.defined()) return;
    for (const at::Tensor& parameter : lists.own()) {
      stepped_.emplace_back(parameter.unsafeGetTensorImpl(), count);
    }
  }

  /// Of state that has been replaced since, nothing is taken.
  void uncount() override {
    for (const auto& [parameter, count] : stepped_) {
      const auto found = optimizer_.state().find(parameter);
      if (found == optimizer_.state().end()) continue;
      auto& state = static_cast<State&>(*found->second);
      if (state.step() == count) state.step(count - 1);
    }
    stepped_.clear();
  }

  State& state_of(const at::Tensor& parameter, bool amsgrad) {
    auto& states = optimizer_.state();
    auto found = states.find(parameter.unsafeGetTensorImpl());
    if (found == states.end()) {
      auto fresh = std::make_unique<State>();
      fresh->step(0);
      fresh->exp_avg(zero_state(parameter));
      fresh->exp_avg_sq(zero_state(parameter));
      found = states.emplace(parameter.unsafeGetTensorImpl(), std::move(fresh)).first;
    }
    State& state = static_cast<State&>(*found->second);
    if (amsgrad && !state.max_exp_avg_sq().defined()) {
      state.max_exp_avg_sq(zero_state(parameter));
    }
    return state;
  }

  std::vector<std::pair<void*, int64_t>> stepped_;  ///< by the last step, if the device may skip it, and their counts
};

}  // namespace

std::unique_ptr<Update> make_fused_adamw(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  return std::make_unique<FusedAdam<AdamW>>(optimizer, options);
}
std::unique_ptr<Update> make_fused_adam(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  return std::make_unique<FusedAdam<Adam>>(optimizer, options);
}

}  // namespace accelerate::internal
