#pragma once

#include <c10/core/ScalarType.h>

#include <optional>

namespace accelerate {

/// Which numbers a model computes with, as data; casts, autocast and strategies read it, nobody asks for a name.
/// An unset dtype means: whatever the model already has.
struct PrecisionPolicy {
  std::optional<at::ScalarType> compute = {};  ///< autocast dtype of forward passes
  std::optional<at::ScalarType> output = {};   ///< low-precision outputs of a model call are converted to this
  bool autocast = true;                        ///< false: where there is a compute dtype, autocast is switched off
  std::optional<bool> cache_casts = {};        ///< casts of parameters are kept for the scope; unset: as it is
};

}  // namespace accelerate
