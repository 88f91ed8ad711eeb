#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

namespace accelerate {

/// What a clip call did. Converts to the norm, which is what the original returns.
struct ClipResult {
  /// 0-d, the total norm before clipping, on the gradients' device; reading it is up to the caller, nothing waits for
  /// it. Undefined after `clip_grad_value_` and on a micro-step that does not synchronise.
  at::Tensor norm = {};
  /// The micro-step does not end an accumulation window, so nothing was done: clipping each partial gradient would give
  /// other numbers than clipping their sum.
  bool accumulated = false;
  operator at::Tensor() const { return norm; }  // NOLINT
};

struct ClipNormOptions {
  double max_norm = 0;   ///< required, more than 0
  double norm_type = 2;  ///< p of the norm, any number above 0; infinity for the largest element
  /// Throws UsageError for a norm that is infinite or NaN, before anything is scaled; waits for the device to know.
  bool error_if_nonfinite = false;
};

struct ClipValueOptions {
  double clip_value = 0;  ///< required, more than 0; gradients are clamped to [-clip_value, clip_value]
};

namespace internal {

/// What is left of gradients of this norm: min(1, max_norm / (norm + 1e-6)).
at::Tensor clip_factor(const at::Tensor& norm, double max_norm);

/// What the user calls parameter `index`.
using ParameterName = std::function<std::string(size_t index)>;

/// Scales the gradients of `parameters` in place so that their joint p-norm is at most `max_norm`; parameters without a
/// gradient are left out. The host reads nothing from the device unless `error_if_nonfinite`. Returns the norm before,
/// 0 without any gradient; of 16-bit gradients in float32. Throws UsageError for a `max_norm` or `norm_type` that is
/// not positive. Source: `torch.nn.utils.clip_grad_norm_`: the factor is min(1, max_norm / (norm + 1e-6)), applied
/// where it is not 1.
at::Tensor clip_grad_norm(const std::vector<at::Tensor>& parameters, ClipNormOptions options,
                          const ParameterName& name = {});

/// Source: `torch.nn.utils.clip_grad_value_`. Throws UsageError for a `clip_value` that is not positive.
void clip_grad_value(const std::vector<at::Tensor>& parameters, ClipValueOptions options);

}  // namespace internal
}  // namespace accelerate
