#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

namespace accelerate {

/// How an autocast region is switched on. Source: `accelerate.utils.AutocastKwargs`.
struct AutocastOptions {
  bool enabled = true;                     ///< false: full precision inside the region
  std::optional<bool> cache_enabled = {};  ///< a weight is cast once for the region; unset: as LibTorch is set, true
};
using AutocastKwargs = AutocastOptions;

/// Which numbers a model computes with, as data; casts, autocast and strategies read it, nobody asks for a name.
/// An unset dtype means: whatever the model already has.
struct PrecisionPolicy {
  std::optional<at::ScalarType> compute = {};  ///< autocast dtype of forward passes
  std::optional<at::ScalarType> output = {};   ///< low-precision outputs of a model call are converted to this
  bool scale_loss = false;                     ///< gradients need a `GradScaler` to keep what is small
  AutocastOptions autocast = {};               ///< of model calls, and of regions that do not say otherwise
  /// `prepare` converts a model's floating parameters to this, and calls convert their floating arguments. Layers with
  /// running statistics (batch norms) keep what they have: kernels want theirs in float32.
  std::optional<at::ScalarType> param = {};
  std::optional<at::ScalarType> buffer = {};  ///< the same of buffers, but for running statistics
  bool master_weights = false;  ///< optimizers update float32 values, of which parameters are rounded copies
  /// Without these: each update rounds a parameter up or down by chance, so that it is right on average. For bfloat16.
  bool stochastic_rounding = false;

  /// What matrix products compute with, if that is decided here.
  std::optional<at::ScalarType> low() const { return compute ? compute : param; }
};

/// Why a policy cannot be followed; nothing if it can.
inline std::optional<const char*> contradiction(const PrecisionPolicy& policy) {
  if (policy.compute && policy.param) return "it has a dtype for autocast and one for parameters";
  if (policy.master_weights && policy.stochastic_rounding) return "parameters with masters are rounded to nearest";
  if (policy.stochastic_rounding && policy.param != at::kBFloat16) return "only bfloat16 is rounded stochastically";
  if (policy.master_weights && policy.param != at::kBFloat16 && policy.param != at::kHalf) {
    return "masters are of parameters of 16 bits";
  }
  return std::nullopt;
}

}  // namespace accelerate
