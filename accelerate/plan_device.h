#pragma once

#include <c10/core/Device.h>

#include <optional>
#include <string>

#include "accelerate/comm/world.h"
#include "accelerate/tensor/hardware.h"

namespace accelerate::internal {

struct ChosenDevice {
  c10::Device device;
  std::string source;  ///< why, for `accelerator.plan()`
};

/// The device this process trains on: the CPU if `cpu` says so, else the one that ACCELERATE_TORCH_DEVICE names, else
/// the CPU if ACCELERATE_USE_CPU says so or no GPU is visible, else a GPU of its own. Throws ConfigError where there
/// are fewer GPUs than processes, and for a named device that does not exist or that processes would share. Source:
/// `PartialState.set_device`, which puts several processes on one GPU instead, and then NCCL fails.
ChosenDevice choose_device(std::optional<bool> cpu, const Environment& environment, const Launched& launched,
                           const Hardware& hardware);

}  // namespace accelerate::internal
