#include "accelerate/optim/wide_parameters.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>

#include <unordered_set>
#include <utility>
#include <vector>

#include "accelerate/optim/kernels/operators.h"

namespace accelerate::internal {
namespace {

struct Widened {
  at::Tensor parameter;  ///< the user's
  at::Tensor low;        ///< what it was, with its memory
  at::Tensor wide;
  at::Tensor gradient;  ///< of 16 bits, or undefined
};

/// What `set_data` does, but for autograd's note of where the gradient goes: strategies wait there.
void show(const at::Tensor& parameter, const at::Tensor& values) {
  parameter.unsafeGetTensorImpl()->shallow_copy_from(values.getIntrusivePtr());
}

}  // namespace

WideParameters::WideParameters(UpdateOptions options) : options_(std::move(options)) {
  if (options_.masters != Masters::kFloat32) return;
  masters_ = options_.weights ? options_.weights : std::make_shared<MasterWeights>();
}

bool WideParameters::has_master(const at::Tensor& parameter) const {
  const at::ScalarType dtype = parameter.scalar_type();
  return masters_ != nullptr && (dtype == at::kBFloat16 || dtype == at::kHalf);
}

bool WideParameters::has_some(const torch::optim::Optimizer& optimizer) const {
  if (!are_wanted(options_)) return false;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (has_master(parameter) || is_rounded(parameter)) return true;
    }
  }
  return false;
}

const at::Tensor& WideParameters::draws_on(c10::Device device) {
  at::Tensor& draws = draws_[{device.type(), device.index()}];
  if (!draws.defined()) draws = at::tensor({*options_.rounding_seed, int64_t{0}}, at::kLong).to(device);
  return draws;
}

void WideParameters::run(torch::optim::Optimizer& optimizer, const std::function<void()>& step) {
  if (!has_some(optimizer)) return step();
  const at::NoGradGuard no_grad;
  std::vector<Widened> all;
  std::unordered_set<const void*> seen;
  // What may fail comes before the first parameter changes.
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const bool is_wide = !has_master(parameter) && !is_rounded(parameter);
      if (is_wide || !(parameter.requires_grad() || parameter.grad().defined())) continue;
      if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
      const at::Tensor low = parameter.detach();
      all.push_back(
          {parameter, low, has_master(parameter) ? masters_->of(parameter) : low.to(at::kFloat), parameter.grad()});
    }
  }
  std::vector<at::Tensor> gradients;
  for (const Widened& one : all)
    gradients.push_back(one.gradient.defined() ? one.gradient.to(at::kFloat) : one.gradient);
  const auto leave = [&] {
    for (Widened& one : all) {
      show(one.parameter, one.low);
      one.parameter.mutable_grad() = one.gradient;
    }
    for (Widened& one : all) {
      if (has_master(one.parameter)) {
        one.parameter.copy_(one.wide);
        masters_->written(one.parameter);
      } else {
        // The operator walks dense memory.
        const at::Tensor wide = one.wide.contiguous();
        const at::Tensor rounded = at::empty(wide.sizes(), one.low.options());
        kernels::round_stochastically(rounded, wide, draws_on(wide.device()));
        one.parameter.copy_(rounded);
      }
    }
  };
  for (size_t i = 0; i < all.size(); ++i) {
    show(all[i].parameter, all[i].wide);
    all[i].parameter.mutable_grad() = gradients[i];
  }
  try {
    step();
  } catch (...) {
    leave();
    throw;
  }
  leave();
}

}  // namespace accelerate::internal
