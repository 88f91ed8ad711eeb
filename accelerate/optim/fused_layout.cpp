#include "accelerate/optim/fused_layout.h"

namespace accelerate::internal {

bool fused_kernel_takes(const at::Tensor& parameter, const at::Tensor& other) {
  return other.defined() && other.layout() == at::kStrided && other.scalar_type() == parameter.scalar_type() &&
         other.device() == parameter.device() && other.sizes() == parameter.sizes() &&
         other.strides() == parameter.strides();
}

bool fused_kernel_updates(const at::Tensor& parameter) {
  if (parameter.layout() != at::kStrided || !at::isFloatingType(parameter.scalar_type())) return false;
  return (parameter.is_cpu() || parameter.is_cuda()) && parameter.is_non_overlapping_and_dense();
}

}  // namespace accelerate::internal
