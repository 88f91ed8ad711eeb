#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "accelerate/precision/policy.h"

namespace torch::nn {
class Module;
}

namespace accelerate::internal {

/// A parameter and, in float32, what it was before it was rounded to 16 bits.
struct RoundedParameter {
  at::Tensor parameter;
  at::Tensor original;
};

/// Converts the floating parameters of `module`, frozen ones and those that are tied included, to `policy.param` and
/// its buffers to `policy.buffer`, with the gradients that are there. Tensors keep their TensorImpl. A layer with
/// running statistics keeps its parameters and buffers. Returns those that have lost digits, each once, in the module's
/// order; where nobody keeps an original its memory is free.
std::vector<RoundedParameter> convert_module(torch::nn::Module& module, const PrecisionPolicy& policy);

}  // namespace accelerate::internal
