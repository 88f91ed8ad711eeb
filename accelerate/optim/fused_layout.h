#pragma once

#include <ATen/core/Tensor.h>

namespace accelerate::internal {

/// True when LibTorch's fused kernels read `other` (a gradient or state) beside `parameter` correctly. They walk raw
/// memory and check nothing: a short gradient would be read out of bounds, other strides would mix up elements
/// silently.
bool fused_kernel_takes(const at::Tensor& parameter, const at::Tensor& other);

/// True when the parameter itself fits: strided, floating, without gaps or overlap.
bool fused_kernel_updates(const at::Tensor& parameter);

}  // namespace accelerate::internal
