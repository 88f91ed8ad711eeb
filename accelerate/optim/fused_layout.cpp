#include "accelerate/optim/fused_layout.h"

namespace accelerate::internal {
namespace {

/// The stride of a dimension of size 1 is never used, and autograd does not keep it equal.
bool same_strides(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  }
  return true;
}

}  // namespace

bool fused_kernel_takes(const at::Tensor& parameter, const at::Tensor& other) {
  return other.defined() && other.layout() == at::kStrided && other.scalar_type() == parameter.scalar_type() &&
         other.device() == parameter.device() && other.sizes() == parameter.sizes() && same_strides(parameter, other);
}

bool fused_kernel_updates(const at::Tensor& parameter) {
  if (parameter.layout() != at::kStrided || !at::isFloatingType(parameter.scalar_type())) return false;
  return (parameter.is_cpu() || parameter.is_cuda()) && parameter.is_non_overlapping_and_dense();
}

}  // namespace accelerate::internal
