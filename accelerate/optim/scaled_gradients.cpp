#include "accelerate/optim/scaled_gradients.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/gradients.h"

namespace accelerate::internal {

std::shared_ptr<ScaledGradients> ScaledGradients::of(std::shared_ptr<GradScaler> scaler,
                                                     torch::optim::Optimizer& optimizer) {
  GradScaler& all = *scaler;
  std::shared_ptr<ScaledGradients> member(new ScaledGradients(std::move(scaler), optimizer));
  all.members_.push_back(member);
  return member;
}

/// By kind; of sparse ones the numbers that they hold.
std::vector<Gradients> ScaledGradients::gradients() const {
  std::vector<at::Tensor> parameters;
  for (const auto& group : optimizer_.param_groups()) {
    parameters.insert(parameters.end(), group.params().begin(), group.params().end());
  }
  std::vector<Gradients> kinds = gradients_by_kind(parameters);
  for (Gradients& kind : kinds) {
    for (at::Tensor& gradient : kind) {
      if (gradient.is_sparse()) gradient = gradient._values();
    }
  }
  return kinds;
}

void ScaledGradients::unscale() {
  if (!scaler_->is_enabled() || unit_ == Unit::kTrue) return;
  const at::NoGradGuard no_grad;
  std::vector<Gradients> kinds = gradients();
  for (const Gradients& kind : kinds) {
    if (kind.front().scalar_type() != at::kHalf) continue;
    throw UsageError({.place = "unscale_gradients",
                      .what = "Gradients of float16 cannot be unscaled: where the scaled ones fit, they would vanish",
                      .got = "parameters of float16",
                      .expected = "parameters of float32, which autocast converts",
                      .remedy = "Leave out model->to(torch::kHalf): the precision converts what it needs"});
  }
  at::Tensor inverse = scaler_->numbers_.scale.to(at::kDouble).reciprocal().to(at::kFloat);
  if (std::exchange(unit_, Unit::kTrue) == Unit::kNothing) inverse = at::ones_like(inverse);  // only looked at
  for (Gradients& kind : kinds) {
    const c10::Device device = kind.front().device();
    at::Tensor found = at::zeros({1}, at::TensorOptions(at::kFloat).device(device));
    at::_amp_foreach_non_finite_check_and_unscale_(kind, found, inverse.to(device));
    found = found.to(inverse.device());
    found_ = found_.defined() ? at::maximum(found_, found) : found;
  }
}

bool ScaledGradients::admits_update() {
  if (!scaler_->is_enabled()) return true;
  unscale();
  if (!found_.defined()) return true;  // no gradient: nothing to apply either
  const at::Tensor found = std::exchange(found_, at::Tensor());
  at::Tensor& all = scaler_->found_;
  all = all.defined() ? at::maximum(all, found) : found;
  return found.item<double>() == 0;
}

void ScaledGradients::dropped() {
  unit_ = Unit::kNothing;
  found_.reset();
}

void ScaledGradients::carry(const at::Tensor& scale) {
  if (std::exchange(unit_, Unit::kScaled) != Unit::kTrue) return;
  rescale(scale);
  found_.reset();  // looked at again with what is added now
}

void ScaledGradients::rescale(const at::Tensor& factor) {
  std::vector<Gradients> kinds = gradients();
  scale(kinds, factor);
}

}  // namespace accelerate::internal
