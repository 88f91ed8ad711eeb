#pragma once

#include <c10/core/Device.h>

#include "accelerate/comm/world.h"
#include "accelerate/core/env.h"
#include "accelerate/core/fields.h"
#include "accelerate/options.h"
#include "accelerate/plan_setup.h"
#include "accelerate/tensor/hardware.h"

namespace accelerate::internal {

/// What was decided, once, from the options and the environment, and where each value came from.
struct Plan {
  World world;
  Rendezvous rendezvous;
  StoreHandle store;
  ProcessGroupHandle process_group;
  InitProcessGroupKwargs init_process_group;
  c10::Device device{c10::kCPU};
  PrecisionEntry precision;
  StrategyEntry strategy;
  std::any strategy_options;
  GradientAccumulationPlugin accumulation;
  DataLoaderConfiguration data;
  Setup setup;
  bool step_scheduler_with_optimizer = true;
  ProfileKwargs profile;
  std::optional<CudaGraph> cuda_graph = {};
  CaptureDeviceEntry capture = {};  ///< with `cuda_graph`
  bool debug = false;               ///< collectives compare shapes first
  Fields fields;
};

/// Pure: the same options, environment and hardware give the same plan. Throws ConfigError for options that contradict
/// each other, values that are not known, and what the device or the world cannot do.
Plan resolve(const AcceleratorOptions& options, const Environment& environment, const Hardware& hardware);

}  // namespace accelerate::internal
