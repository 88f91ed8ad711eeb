#include "accelerate/optim/fused_update.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <vector>

#include "accelerate/optim/gradients.h"

#include "accelerate/optim/ema_core.h"

namespace accelerate::internal {
namespace {

/// The stride of a dimension of size 1, or of no element, is never used, and autograd does not keep it equal.
bool same_strides(const at::Tensor& a, const at::Tensor& b) {
  if (a.numel() == 0 || a.strides() == b.strides()) return true;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

/// Strided, of a dtype that the kernels have, without gaps or overlap.
bool can_be_updated(const at::Tensor& parameter) {
  const at::ScalarType dtype = parameter.scalar_type();
  const bool known = dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
  if (parameter.layout() != at::kStrided || !known) return false;
  return (parameter.is_cpu() || parameter.is_cuda()) && parameter.is_non_overlapping_and_dense();
}

}  // namespace

bool FusedUpdate::fits(const at::Tensor& parameter, const at::Tensor& other, at::ScalarType dtype) {
  return other.defined() && other.layout() == at::kStrided && other.scalar_type() == dtype &&
         other.device() == parameter.device() && other.sizes() == parameter.sizes() && same_strides(parameter, other);
}

bool FusedUpdate::takes_everything() const {
  std::vector<const void*> written;
  for (const auto& group : optimizer_.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const at::Tensor& gradient = parameter.grad();
      if (!gradient.defined()) continue;
      if (!can_be_updated(parameter) || !fits_beside(parameter, gradient) || !takes_state(group, parameter))
        return false;
      // Blocks of one launch do not wait for each other: one that is listed twice would be stepped by both at once.
      // The same of a gradient, which is multiplied.
      if (!on_device(parameter)) continue;
      if (written.empty()) written.reserve(2 * group.params().size());
      written.push_back(parameter.unsafeGetTensorImpl());
      written.push_back(gradient.unsafeGetTensorImpl());
    }
  }
  return all_differ(written);
}

bool FusedUpdate::takes_verdict(c10::Device device) const {
  bool some = false;
  for (const auto& group : optimizer_.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      if (!on_device(parameter) || parameter.device() != device) return false;
      some = true;
    }
  }
  return some && takes_everything();
}

at::Tensor FusedUpdate::average_of(const at::Tensor& parameter) {
  if (averages() == nullptr || !on_device(parameter)) return {};
  return averages()->average_beside(parameter, updated(parameter));
}

kernels::Following FusedUpdate::following(std::vector<at::Tensor>& followers) {
  return averages() == nullptr ? kernels::Following() : averages()->following(followers);
}

const at::Tensor& FusedUpdate::rate_of(const Group& group, c10::Device device) {
  return rates_.of(group.index, group.options.options().get_lr(), device);
}

void FusedUpdate::step_if(const Verdict& verdict) {
  const at::NoGradGuard no_grad;
  counts_.begin_update();
  if (!has_operator() && wide_.has_some(optimizer_)) {
    if (verdict.factor.defined() || verdict.skip.defined()) Update::step_if(verdict);
    // LibTorch's kernel, on parameters that are of float32 meanwhile.
    wide_.run(optimizer_, [this] { step_all({}); });
    return;
  }
  step_all(verdict);
}

void FusedUpdate::step_all(const Verdict& verdict) {
  start_state();
  if (!takes_everything()) {
    if (verdict.factor.defined() || verdict.skip.defined()) Update::step_if(verdict);
    wide_.run(optimizer_, [this] { optimizer_.step(); });
    return;
  }
  // Of all groups first: where memory runs out, nothing has been updated or counted.
  for (auto& group : optimizer_.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (parameter.grad().defined()) updated(parameter);
    }
    make_states(group);
  }
  verdict_ = verdict;
  try {
    for (size_t i = 0; i < optimizer_.param_groups().size(); ++i) {
      auto& group = optimizer_.param_groups()[i];
      step_group({group, i});
      // The kernels leave the versions alone, and autograd would walk a graph over the old weights with the new ones.
      for (const at::Tensor& parameter : group.params()) {
        if (!parameter.grad().defined()) continue;
        parameter.unsafeGetTensorImpl()->bump_version();
        if (has_master(parameter)) wide_.masters().written(parameter);
      }
    }
  } catch (...) {
    counts_.reset();
    verdict_ = {};
    throw;
  }
  verdict_ = {};
}

const at::Tensor* FusedUpdate::master_of(const at::Tensor& parameter) const { return wide_.master_of(parameter); }

at::Tensor FusedUpdate::empty_state(const at::Tensor& parameter) const {
  const auto options = parameter.options().dtype(state_dtype(parameter)).requires_grad(false);
  return at::empty_like(parameter, options, at::MemoryFormat::Preserve);
}

void FusedUpdate::take_back() {
  counts_.take_back();
  uncount();
}

}  // namespace accelerate::internal
