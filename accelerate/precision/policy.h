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
};

}  // namespace accelerate
