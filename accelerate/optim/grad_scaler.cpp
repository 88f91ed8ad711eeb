#include "accelerate/optim/grad_scaler.h"

#include <ATen/ATen.h>

#include <cmath>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/scaled_gradients.h"

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
  if (!unsettled_) return numbers_;
  Numbers next{.scale = numbers_.scale.clone(), .growth_tracker = numbers_.growth_tracker.clone()};
  at::_amp_update_scale_(next.scale, next.growth_tracker, found_, options_.growth_factor, options_.backoff_factor,
                         options_.growth_interval);
  return next;
}

double GradScaler::get_scale() const { return settled().scale.item<double>(); }
int64_t GradScaler::get_growth_tracker() const { return settled().growth_tracker.item<int64_t>(); }

/// In place: the tensors stay what they are, for whoever recorded a step that uses them.
void GradScaler::settle() {
  if (!std::exchange(unsettled_, false)) return;
  std::vector<std::shared_ptr<internal::ScaledGradients>> scaled;
  for (const auto& weak : members_) {
    auto member = weak.lock();
    if (member && member->unit_ == internal::ScaledGradients::Unit::kScaled) scaled.push_back(std::move(member));
  }
  const at::Tensor before = scaled.empty() ? at::Tensor() : numbers_.scale.clone();
  at::_amp_update_scale_(numbers_.scale, numbers_.growth_tracker, found_, options_.growth_factor,
                         options_.backoff_factor, options_.growth_interval);
  found_.zero_();
  for (const auto& member : scaled) member->rescale(numbers_.scale / before);
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
  if (std::exchange(unsettled_, false)) found_.zero_();
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

}  // namespace internal
}  // namespace accelerate
