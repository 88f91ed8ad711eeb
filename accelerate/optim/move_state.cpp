#include "accelerate/optim/move_state.h"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <vector>

#include "accelerate/optim/lion.h"

namespace accelerate::internal {

std::vector<at::Tensor*> tensors_of_state(torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;  // NOLINT: the names below
  if (auto* adamw = dynamic_cast<AdamWParamState*>(&state)) {
    return {&adamw->exp_avg(), &adamw->exp_avg_sq(), &adamw->max_exp_avg_sq()};
  }
  if (auto* adam = dynamic_cast<AdamParamState*>(&state)) {
    return {&adam->exp_avg(), &adam->exp_avg_sq(), &adam->max_exp_avg_sq()};
  }
  if (auto* sgd = dynamic_cast<SGDParamState*>(&state)) return {&sgd->momentum_buffer()};
  if (auto* lion = dynamic_cast<LionParamState*>(&state)) return {&lion->exp_avg()};
  if (auto* adagrad = dynamic_cast<AdagradParamState*>(&state)) return {&adagrad->sum()};
  if (auto* rmsprop = dynamic_cast<RMSpropParamState*>(&state)) {
    return {&rmsprop->square_avg(), &rmsprop->momentum_buffer(), &rmsprop->grad_avg()};
  }
  if (auto* lbfgs = dynamic_cast<LBFGSParamState*>(&state)) {
    std::vector<at::Tensor*> tensors{&lbfgs->d(), &lbfgs->H_diag(), &lbfgs->prev_flat_grad()};
    for (auto* history : {&lbfgs->old_dirs(), &lbfgs->old_stps(), &lbfgs->ro()}) {
      for (at::Tensor& tensor : *history) tensors.push_back(&tensor);
    }
    if (lbfgs->al()) {
      for (at::Tensor& tensor : *lbfgs->al()) tensors.push_back(&tensor);
    }
    return tensors;
  }
  return {};
}

void move_state(torch::optim::Optimizer& optimizer) {
  auto& states = optimizer.state();
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const auto found = states.find(parameter.unsafeGetTensorImpl());
      if (found == states.end()) continue;
      for (at::Tensor* tensor : tensors_of_state(*found->second)) {
        if (tensor->defined() && tensor->device() != parameter.device()) *tensor = tensor->to(parameter.device());
      }
    }
  }
}

void widen_state(torch::optim::Optimizer& optimizer, at::ScalarType param) {
  auto& states = optimizer.state();
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const auto found = states.find(parameter.unsafeGetTensorImpl());
      if (found == states.end() || parameter.scalar_type() != param) continue;
      for (at::Tensor* tensor : tensors_of_state(*found->second)) {
        if (!tensor->defined()) continue;
        const at::ScalarType dtype = tensor->scalar_type();
        if (dtype == at::kBFloat16 || dtype == at::kHalf) *tensor = tensor->to(at::kFloat);
      }
    }
  }
}

}  // namespace accelerate::internal
