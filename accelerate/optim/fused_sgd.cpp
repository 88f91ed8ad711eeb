// SGD through fused kernels, on the stock optimizer's own momentum buffers.
#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "accelerate/optim/fused_update.h"
#include "accelerate/optim/kernels/operators.h"

namespace accelerate::internal {
namespace {

using Options = torch::optim::SGDOptions;
using State = torch::optim::SGDParamState;

/// Tensors of one kernel call, element i of each list belonging together.
struct Lists {
  std::vector<at::Tensor> parameters, copies, gradients, momentum_buffers, followers;
  /// The model's own.
  const std::vector<at::Tensor>& own() const { return copies.empty() ? parameters : copies; }
};

class FusedSgd final : public FusedUpdate {
 public:
  using FusedUpdate::FusedUpdate;
  std::string_view name() const override { return "fused sgd"; }

 private:
  /// LibTorch 2.11 updates vectors of 16 bits with gradients of other elements.
  bool library_is_wrong(at::ScalarType dtype) const override { return dtype == at::kBFloat16 || dtype == at::kHalf; }

  bool takes_state(const torch::optim::OptimizerParamGroup&, const at::Tensor& parameter) const override {
    const State* state = find_state(parameter);
    return state == nullptr || fits_state(parameter, state->momentum_buffer());
  }

  void step_group(const Group& group) override {
    const auto& options = static_cast<const Options&>(group.options.options());
    if (group.index == 0) started_.clear();
    const bool momentum = options.momentum() != 0;
    // The first step of a parameter sets its buffer to the gradient, undamped; later ones blend. First ones go first,
    // since a parameter may be listed twice.
    std::map<std::pair<bool, Kind>, Lists> calls;
    std::unordered_map<const void*, at::Tensor> started;
    for (const at::Tensor& parameter : group.options.params()) {
      if (!parameter.grad().defined()) continue;
      const at::Tensor& updated = this->updated(parameter);
      at::Tensor buffer;
      bool later = true;
      if (momentum) {
        const State* state = find_state(parameter);
        later = state != nullptr || started.contains(parameter.unsafeGetTensorImpl());
        if (state != nullptr) {
          buffer = state->momentum_buffer();
        } else {
          at::Tensor& fresh = started[parameter.unsafeGetTensorImpl()];
          if (!fresh.defined()) fresh = empty_state(parameter);
          buffer = fresh;
        }
      }
      Lists& lists = calls[{later, kind_of(parameter)}];
      lists.parameters.push_back(updated);
      if (!updated.is_same(parameter)) lists.copies.push_back(parameter);
      lists.gradients.push_back(parameter.grad());
      if (momentum) lists.momentum_buffers.push_back(std::move(buffer));
      lists.followers.push_back(average_of(parameter));
    }
    for (auto& [key, lists] : calls) {
      const bool first = !key.first;
      if (on_device(lists.own().front())) {
        run_on_device(group, lists, first);
        continue;
      }
      at::_fused_sgd_(lists.parameters, lists.gradients, lists.momentum_buffers, options.weight_decay(),
                      options.momentum(), options.lr(), options.dampening(), options.nesterov(), /*maximize=*/false,
                      /*is_first_step=*/first);
      // After the kernel: a buffer that it did not fill must not be found by the next step.
      if (first) keep_buffers(lists);
    }
  }

  void run_on_device(const Group& group, Lists& lists, bool first) {
    const auto& options = static_cast<const Options&>(group.options.options());
    const c10::Device device = lists.parameters.front().device();
    if (first) {
      for (const at::Tensor& buffer : lists.momentum_buffers) at::Tensor(buffer).zero_();
    }
    // Buffers of zeros are as good as begun ones, unless the first gradient is to be damped.
    kernels::Clock clock{.updates = {}, .lr = rate_of(group, device)};
    if (options.momentum() != 0 && options.dampening() != 0) {
      clock.updates = first ? at::zeros({}, at::TensorOptions(at::kLong).device(device)) : counts().of(1, device);
    }
    kernels::fused_sgd(lists_of(lists), lists.momentum_buffers, clock,
                       {options.momentum(), options.dampening(), options.weight_decay(),
                        options.nesterov() ? kernels::Momentum::kNesterov : kernels::Momentum::kPlain},
                       verdict());
    if (!first) return;
    keep_buffers(lists);
    if (!verdict().skip.defined()) return;
    for (size_t i = 0; i < lists.parameters.size(); ++i) {
      started_.emplace_back(lists.own()[i].unsafeGetTensorImpl(), lists.momentum_buffers[i]);
    }
  }

  /// What has not begun is not there. Of state that has been replaced since, nothing is taken.
  void uncount() override {
    for (const auto& [parameter, buffer] : started_) {
      const auto found = optimizer_.state().find(parameter);
      if (found == optimizer_.state().end()) continue;
      if (static_cast<const State&>(*found->second).momentum_buffer().is_same(buffer)) optimizer_.state().erase(found);
    }
    started_.clear();
  }

  const State* find_state(const at::Tensor& parameter) const {
    const auto& all = optimizer_.state();
    const auto found = all.find(parameter.unsafeGetTensorImpl());
    if (found == all.end()) return nullptr;
    const auto& state = static_cast<const State&>(*found->second);
    return state.momentum_buffer().defined() ? &state : nullptr;
  }

  void keep_buffers(const Lists& lists) {
    for (size_t i = 0; i < lists.parameters.size(); ++i) {
      auto state = std::make_unique<State>();
      state->momentum_buffer(lists.momentum_buffers[i]);
      optimizer_.state()[lists.own()[i].unsafeGetTensorImpl()] = std::move(state);
    }
  }

  std::vector<std::pair<void*, at::Tensor>> started_;  ///< buffers of the last step, if the device may skip it
};

}  // namespace

std::unique_ptr<Update> make_fused_sgd(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  return std::make_unique<FusedSgd>(optimizer, options);
}

}  // namespace accelerate::internal
