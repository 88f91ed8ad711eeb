#include "accelerate/optim/fused_update.h"

#include <torch/optim/optimizer.h>

namespace accelerate::internal {
namespace {

/// The stride of a dimension of size 1 is never used, and autograd does not keep it equal.
bool same_strides(const at::Tensor& a, const at::Tensor& b) {
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

bool FusedUpdate::fits_beside(const at::Tensor& parameter, const at::Tensor& other) {
  return other.defined() && other.layout() == at::kStrided && other.scalar_type() == parameter.scalar_type() &&
         other.device() == parameter.device() && other.sizes() == parameter.sizes() && same_strides(parameter, other);
}

bool FusedUpdate::takes_everything() const {
  for (const auto& group : optimizer_.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      const at::Tensor& gradient = parameter.grad();
      if (!gradient.defined()) continue;
      if (!can_be_updated(parameter) || !fits_beside(parameter, gradient) || !takes_state(group, parameter))
        return false;
    }
  }
  return true;
}

void FusedUpdate::step() {
  const at::NoGradGuard no_grad;
  start_state();
  if (!takes_everything()) {
    optimizer_.step();
    return;
  }
  // Of all groups first: where memory runs out, nothing has been updated or counted.
  for (auto& group : optimizer_.param_groups()) make_states(group);
  for (auto& group : optimizer_.param_groups()) {
    step_group(group);
    // The kernels leave the versions alone, and autograd would walk a graph over the old weights with the new ones.
    for (const at::Tensor& parameter : group.params()) {
      if (parameter.grad().defined()) parameter.unsafeGetTensorImpl()->bump_version();
    }
  }
}

}  // namespace accelerate::internal
