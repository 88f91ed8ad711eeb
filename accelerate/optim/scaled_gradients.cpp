#include "accelerate/optim/scaled_gradients.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/clip.h"
#include "accelerate/optim/gradients.h"
#include "accelerate/optim/kernels/operators.h"

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

void ScaledGradients::require_room(const std::vector<Gradients>& kinds) {
  for (const Gradients& kind : kinds) {
    if (kind.front().scalar_type() != at::kHalf) continue;
    throw UsageError({.place = "unscale_gradients",
                      .what = "Gradients of float16 cannot be unscaled: where the scaled ones fit, they would vanish",
                      .got = "parameters of float16",
                      .expected = "parameters of float32, which autocast converts",
                      .remedy = "Leave out model->to(torch::kHalf): the precision converts what it needs"});
  }
}

at::Tensor ScaledGradients::inverse_scale() const {
  return scaler_->numbers_.scale.to(at::kDouble).reciprocal().to(at::kFloat);
}

void ScaledGradients::unscale() {
  if (!scaler_->is_enabled() || unit_ == Unit::kTrue) return;
  const at::NoGradGuard no_grad;
  std::vector<Gradients> kinds = gradients();
  require_room(kinds);
  at::Tensor inverse = inverse_scale();
  if (std::exchange(unit_, Unit::kTrue) == Unit::kNothing) inverse = at::ones_like(inverse);  // only looked at
  for (Gradients& kind : kinds) {
    const c10::Device device = kind.front().device();
    at::Tensor found = at::zeros({1}, at::TensorOptions(at::kFloat).device(device));
    at::_amp_foreach_non_finite_check_and_unscale_(kind, found, inverse.to(device));
    found = found.to(inverse.device());
    found_ = found_.defined() ? at::maximum(found_, found) : found;
  }
}

std::optional<at::Tensor> ScaledGradients::clip(const std::vector<at::Tensor>& parameters, double max_norm) {
  if (!scaler_->is_enabled() || unit_ != Unit::kScaled) return std::nullopt;
  const at::NoGradGuard no_grad;
  const std::vector<Gradients> kinds = gradients();
  if (kinds.size() != 1 || kinds.front().front().device() != device() || !are_dense(kinds.front())) return std::nullopt;
  require_room(kinds);
  const Gradients& own = kinds.front();
  if (own.front().scalar_type() != at::kFloat) return std::nullopt;  // the dtype of the factor
  const Gradients wanted = gradients_of(parameters);
  std::unordered_set<const void*> known;
  for (const at::Tensor& gradient : own) known.insert(gradient.unsafeGetTensorImpl());
  const auto is_own = [&](const at::Tensor& one) { return known.contains(one.unsafeGetTensorImpl()); };
  if (wanted.size() != own.size() || !std::all_of(wanted.begin(), wanted.end(), is_own)) return std::nullopt;
  const at::Tensor inverse = inverse_scale();
  const kernels::Norm seen = kernels::gradient_norm(own, inverse);
  kernels::scale(own, (clip_factor(seen.norm, max_norm) * inverse).to(at::kFloat));
  unit_ = Unit::kTrue;
  found_ = found_.defined() ? at::maximum(found_, seen.found) : seen.found;
  return seen.norm;
}

void ScaledGradients::count(const at::Tensor& found) {
  at::Tensor& all = scaler_->found_;
  if (!all.defined()) all = at::zeros_like(found);
  at::maximum_out(all, all, found);
  scaler_->unsettled_ = true;
}

bool ScaledGradients::admits_update() {
  if (!scaler_->is_enabled()) return true;
  unscale();
  if (!found_.defined()) return true;  // no gradient: nothing to apply either
  const at::Tensor found = std::exchange(found_, at::Tensor());
  count(found);
  return found.item<double>() == 0;
}

Verdict ScaledGradients::verdict() {
  const at::NoGradGuard no_grad;
  if (unit_ == Unit::kTrue) return {.skip = found_};
  const std::vector<Gradients> kinds = gradients();
  require_room(kinds);
  Verdict verdict;
  if (unit_ == Unit::kScaled) verdict.factor = inverse_scale();
  for (const Gradients& kind : kinds) {
    const at::Tensor found = kernels::gradient_norm(kind).found.to(scaler_->numbers_.scale.device());
    verdict.skip = verdict.skip.defined() ? at::maximum(verdict.skip, found) : found;
  }
  return verdict;
}

void ScaledGradients::updated(const Verdict& verdict) {
  unit_ = Unit::kTrue;
  found_.reset();
  count(verdict.skip);
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
