#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

// Operators of this library, known to LibTorch's dispatcher as `accelerate::cross_entropy` and
// `accelerate::cross_entropy_backward`: autograd, profilers and what records operators see two calls.

namespace accelerate::internal::losses {

struct CrossEntropy {
  int64_t reduction = 1;  ///< at::Reduction: none, mean or sum
  int64_t ignore_index = -100;
  double label_smoothing = 0;
};

/// Whether the operator computes with such logits: a dense tensor of float32, bfloat16 or float16 on a device that has
/// kernels.
bool is_known(const at::Tensor& logits);

/// `logits`: {n, classes}; `targets`: {n}, int64. The loss is of float32: {n} without a reduction, else 0-d.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const CrossEntropy& options);

}  // namespace accelerate::internal::losses
