#include "accelerate/optim/grad_scaler.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <cmath>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/gradients.h"

namespace accelerate {
namespace {

template <class Number>
void require(bool good, const char* field, Number value, const char* expected) {
  if (good) return;
  std::ostringstream got;
  got << '.' << field << " = " << value;
  throw ConfigError({.place = "scaler_handler",
                     .what = "An option of the loss scaling is out of range",
                     .got = got.str(),
                     .expected = expected,
                     .remedy = "Correct GradScalerKwargs, or leave the field out"});
}

}  // namespace

GradScaler::GradScaler(GradScalerKwargs options, c10::Device device) : options_(options) {
  internal::check(options);
  const auto scale = static_cast<float>(options.init_scale);
  numbers_.scale = at::full({}, options.enabled ? scale : 1.0F, at::TensorOptions(at::kFloat).device(device));
  numbers_.growth_tracker = at::zeros({}, at::TensorOptions(at::kInt).device(device));
}

GradScaler::Numbers GradScaler::settled() const {
  if (!found_.defined()) return numbers_;
  Numbers next{.scale = numbers_.scale.clone(), .growth_tracker = numbers_.growth_tracker.clone()};
  at::_amp_update_scale_(next.scale, next.growth_tracker, found_, options_.growth_factor, options_.backoff_factor,
                         options_.growth_interval);
  return next;
}

double GradScaler::get_scale() const { return settled().scale.item<double>(); }
int64_t GradScaler::get_growth_tracker() const { return settled().growth_tracker.item<int64_t>(); }

void GradScaler::settle() {
  if (!found_.defined()) return;
  const Numbers next = settled();
  found_.reset();
  const at::Tensor before = std::exchange(numbers_, next).scale;
  for (const auto& weak : members_) {
    const auto member = weak.lock();
    if (member && member->unit_ == internal::ScaledGradients::Unit::kScaled) member->rescale(next.scale / before);
  }
}

at::Tensor GradScaler::scale(const at::Tensor& loss) {
  if (!options_.enabled) return loss;
  {
    const at::NoGradGuard no_grad;
    std::erase_if(members_, [](const auto& member) { return member.expired(); });
    settle();
    for (const auto& weak : members_) {
      if (const auto member = weak.lock()) member->carry(numbers_.scale);
    }
  }
  return loss * numbers_.scale.to(loss.options());
}

void GradScaler::save(StateWriter& writer) const {
  const Numbers now = settled();
  writer.write({.name = "scale", .global_shape = {}, .held = {.begin = 0, .end = 1}, .local = now.scale});
  writer.write(
      {.name = "_growth_tracker", .global_shape = {}, .held = {.begin = 0, .end = 1}, .local = now.growth_tracker});
}

void GradScaler::load(StateReader& reader) {
  found_.reset();
  reader.read({.name = "scale", .global_shape = {}, .held = {.begin = 0, .end = 1}, .local = numbers_.scale});
  reader.read({.name = "_growth_tracker",
               .global_shape = {},
               .held = {.begin = 0, .end = 1},
               .local = numbers_.growth_tracker});
}

std::vector<at::Tensor> GradScaler::tensors() {
  const at::NoGradGuard no_grad;
  settle();
  return {numbers_.scale, numbers_.growth_tracker};
}

namespace internal {

void check(const GradScalerKwargs& options) {
  const auto scale = static_cast<float>(options.init_scale);
  require(std::isfinite(scale) && scale > 0, "init_scale", options.init_scale, "a number above 0 that float32 holds");
  require(std::isfinite(options.growth_factor) && options.growth_factor > 1, "growth_factor", options.growth_factor,
          "more than 1");
  require(options.backoff_factor > 0 && options.backoff_factor < 1, "backoff_factor", options.backoff_factor,
          "more than 0 and less than 1");
  require(options.growth_interval >= 1, "growth_interval", options.growth_interval, "1 or more");
}

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
                      .remedy = "Leave out model->to(torch::kHalf); .mixed_precision = \"fp16\" does what is needed"});
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
  accelerate::internal::scale(kinds, factor);
}

}  // namespace internal
}  // namespace accelerate
