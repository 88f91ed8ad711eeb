#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"
#include "accelerate/core/fields.h"
#include "accelerate/options.h"

namespace accelerate::internal {

/// What surrounds the loop: where prepared objects go, randomness, folders, autocast and the log.
struct Setup {
  bool device_placement = true;
  std::vector<std::string> rng_types;
  ProjectConfiguration project;
  AutocastOptions autocast;
  GradScalerKwargs scaler;
  Float32Kwargs float32;
  std::optional<LogLevel> log_level = {};  ///< the least that is logged; unset: see Log
  std::vector<std::string> warnings;       ///< what was asked for and is not done, for the log
};

struct ResolvedSetup {
  Setup value;
  std::vector<Field> fields;  ///< for `accelerator.plan()`
};

/// Pure. Throws ConfigError for random states and levels that are not known, two project folders, a `data_seed` that
/// nothing would use, and numbers out of range.
ResolvedSetup resolve_setup(const AcceleratorOptions& options, const Environment& environment, c10::Device device);

}  // namespace accelerate::internal
