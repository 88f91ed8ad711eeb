#include "accelerate/plan_device.h"

#include <algorithm>
#include <string_view>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

constexpr const char* kDeviceVariable = "ACCELERATE_TORCH_DEVICE";

[[noreturn]] void refuse(const std::string& text, const std::string& what, const std::string& expected) {
  throw ConfigError({.place = kDeviceVariable,
                     .what = what,
                     .got = "\"" + text + "\"",
                     .expected = expected,
                     .remedy = "Correct or unset it"});
}

struct NamedDevice {
  std::string text;
  c10::Device device;  ///< without an index: one of its kind
};

std::optional<NamedDevice> named_device(const Environment& environment) {
  const auto text = environment.text(kDeviceVariable);
  if (!text) return std::nullopt;
  if (*text == "cpu") return NamedDevice{*text, c10::Device(c10::kCPU)};
  if (*text == "cuda") return NamedDevice{*text, c10::Device(c10::kCUDA)};
  constexpr std::string_view kIndexed = "cuda:";
  const std::string digits = text->starts_with(kIndexed) ? text->substr(kIndexed.size()) : "";
  const bool is_index = !digits.empty() && digits.size() <= 2 &&
                        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!is_index) refuse(*text, "The device is not known", "\"cpu\", \"cuda\" or \"cuda:\" and a number up to 99");
  return NamedDevice{*text, c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(std::stoi(digits)))};
}

void check_gpu(const NamedDevice& named, const World& world, const Hardware& hardware) {
  if (hardware.cuda_devices == 0) refuse(named.text, "There is no visible GPU", "\"cpu\"");
  if (!named.device.has_index()) return;
  if (named.device.index() >= hardware.cuda_devices) {
    refuse(named.text, "The GPU is not visible",
           "\"cuda:0\" to \"cuda:" + std::to_string(hardware.cuda_devices - 1) + "\"");
  }
  if (world.local_size > 1) {
    refuse(named.text, "The " + std::to_string(world.local_size) + " processes of this host would share a GPU",
           "\"cuda\", which gives each its own");
  }
}

}  // namespace

ChosenDevice choose_device(std::optional<bool> cpu, const Environment& environment, const Launched& launched,
                           const Hardware& hardware) {
  constexpr const char* kVariable = "ACCELERATE_USE_CPU";
  const auto variable = environment.flag(kVariable);
  const c10::Device the_cpu(c10::kCPU);
  const auto named = named_device(environment);
  // An argument that says the opposite holds.
  if (named && cpu.value_or(named->device.is_cpu()) == named->device.is_cpu()) {
    const std::string source = std::string("environment ") + kDeviceVariable;
    if (named->device.is_cpu()) return {the_cpu, cpu ? "argument" : source};
    check_gpu(*named, launched.world, hardware);
    if (named->device.has_index()) return {named->device, source};
  }
  const bool wants_gpu = named && named->device.is_cuda();
  if (!cpu && wants_gpu) cpu = false;
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
