#include "accelerate/plan_device.h"

#include <algorithm>

#include "accelerate/core/error.h"

namespace accelerate::internal {

ChosenDevice choose_device(std::optional<bool> cpu, const Environment& environment, const Launched& launched,
                           const Hardware& hardware) {
  constexpr const char* kVariable = "ACCELERATE_USE_CPU";
  const auto variable = environment.flag(kVariable);
  const c10::Device the_cpu(c10::kCPU);
  if (cpu.value_or(variable.value_or(false)))
    return {the_cpu, cpu ? "argument" : std::string("environment ") + kVariable};
  if (hardware.cuda_devices == 0) return {the_cpu, "default"};

  const int64_t gpus = hardware.cuda_devices;
  const std::string visible = std::to_string(gpus) + (gpus == 1 ? " visible GPU" : " visible GPUs");
  const auto gpu = [](int64_t index) { return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index)); };
  if (launched.own_gpus) return {gpu(0), "the first of this process's own " + visible};
  const World& world = launched.world;
  const int64_t processes = std::max(world.local_size, world.local_rank + 1);
  if (processes > gpus) {
    throw ConfigError({.place = "device",
                       .what = "There are more processes than GPUs on this host",
                       .got = std::to_string(processes) + " processes and " + visible,
                       .expected = "a GPU for each process",
                       .remedy = "Start " + std::to_string(gpus) + (gpus == 1 ? " process" : " processes") +
                                 " on this host, make more GPUs visible (CUDA_VISIBLE_DEVICES), or train on the CPU "
                                 "with .cpu = true"});
  }
  return {gpu(world.local_rank), "local_process_index, of " + visible};
}

}  // namespace accelerate::internal
