#include "accelerate/step/tape/random.h"

#include <ATen/Context.h>

namespace accelerate::internal {

RandomState RandomState::now(c10::DeviceType device) {
  if (device != c10::kCPU && device != c10::kCUDA) return {};
  const at::Generator& generator = at::globalContext().defaultGenerator(c10::Device(device));
  // That of the host has no offset.
  return {.seed = generator.current_seed(), .offset = device == c10::kCPU ? 0 : generator.get_offset()};
}

}  // namespace accelerate::internal
