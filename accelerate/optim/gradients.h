#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace accelerate::internal {

/// Whether no two of them are equal; sorts them.
bool all_differ(std::vector<const void*>& addresses);

/// Gradients of one device and dtype, which the for-each kernels take together.
using Gradients = std::vector<at::Tensor>;

/// The gradients that exist, each once: `module.parameters()` lists a tied parameter under each of its names.
Gradients gradients_of(const std::vector<at::Tensor>& parameters);
/// The same by device and dtype; there is almost always one kind.
std::vector<Gradients> gradients_by_kind(const std::vector<at::Tensor>& parameters);
/// Whether they are strided without gaps or overlap, which kernels over raw memory need.
bool are_dense(const Gradients& gradients);
/// Multiplies in place by a 0-d factor of any dtype and device.
void scale(std::vector<Gradients>& kinds, const at::Tensor& factor);

}  // namespace accelerate::internal
