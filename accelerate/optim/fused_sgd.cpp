// SGD through LibTorch's fused kernel, on the stock optimizer's own momentum buffers.
#include <ATen/ATen.h>
#include <torch/optim/sgd.h>

#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "accelerate/optim/fused_update.h"

namespace accelerate::internal {
namespace {

using Options = torch::optim::SGDOptions;
using State = torch::optim::SGDParamState;

/// Tensors of one kernel call, element i of each list belonging together.
struct Lists {
  std::vector<at::Tensor> parameters, gradients, momentum_buffers;
};

class FusedSgd final : public FusedUpdate {
 public:
  using FusedUpdate::FusedUpdate;
  std::string_view name() const override { return "fused sgd"; }

 private:
  bool takes_state(const torch::optim::OptimizerParamGroup&, const at::Tensor& parameter) const override {
    const State* state = find_state(parameter);
    return state == nullptr || fits_beside(parameter, state->momentum_buffer());
  }

  void step_group(torch::optim::OptimizerParamGroup& group) override {
    const auto& options = static_cast<const Options&>(group.options());
    const bool momentum = options.momentum() != 0;
    // The first step of a parameter sets its buffer to the gradient, undamped; later ones blend. First ones go first,
    // since a parameter may be listed twice.
    std::map<std::pair<bool, Kind>, Lists> calls;
    std::unordered_map<const void*, at::Tensor> started;
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      at::Tensor buffer;
      bool later = true;
      if (momentum) {
        const State* state = find_state(parameter);
        later = state != nullptr || started.contains(parameter.unsafeGetTensorImpl());
        if (state != nullptr) {
          buffer = state->momentum_buffer();
        } else {
          at::Tensor& fresh = started[parameter.unsafeGetTensorImpl()];
          if (!fresh.defined()) fresh = at::empty_like(parameter, at::MemoryFormat::Preserve);
          buffer = fresh;
        }
      }
      Lists& lists = calls[{later, kind_of(parameter)}];
      lists.parameters.push_back(parameter);
      lists.gradients.push_back(parameter.grad());
      if (momentum) lists.momentum_buffers.push_back(std::move(buffer));
    }
    for (auto& [key, lists] : calls) {
      const bool first = !key.first;
      at::_fused_sgd_(lists.parameters, lists.gradients, lists.momentum_buffers, options.weight_decay(),
                      options.momentum(), options.lr(), options.dampening(), options.nesterov(), /*maximize=*/false,
                      /*is_first_step=*/first);
      // After the kernel: a buffer that it did not fill must not be found by the next step.
      if (first) keep_buffers(lists);
    }
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
      optimizer_.state()[lists.parameters[i].unsafeGetTensorImpl()] = std::move(state);
    }
  }
};

}  // namespace

std::unique_ptr<Update> make_fused_sgd(torch::optim::Optimizer& optimizer) {
  return std::make_unique<FusedSgd>(optimizer);
}

}  // namespace accelerate::internal
