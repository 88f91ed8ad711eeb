#include "accelerate/step/tape/random.h"

#include <ATen/Context.h>

namespace accelerate::internal {
namespace {

const at::Generator& generator_of(c10::DeviceType device) {
  return at::globalContext().defaultGenerator(c10::Device(device));
}

}  // namespace

RandomState RandomState::now(c10::DeviceType device) {
  if (device != c10::kCPU && device != c10::kCUDA) return {};
  const at::Generator& generator = generator_of(device);
  // That of the host has no offset.
  return {.seed = generator.current_seed(), .offset = device == c10::kCPU ? 0 : generator.get_offset()};
}

RandomPlace RandomPlace::now(c10::DeviceType device) {
  RandomPlace place;
  place.state_ = RandomState::now(device);
  if (device == c10::kCPU) place.whole_ = generator_of(device).get_state();
  return place;
}

void RandomPlace::go_back(c10::DeviceType device) const {
  if (device != c10::kCPU && device != c10::kCUDA) return;
  at::Generator generator = generator_of(device);
  if (whole_.defined()) return generator.set_state(whole_);
  generator.set_current_seed(state_.seed);
  generator.set_offset(state_.offset);
}

}  // namespace accelerate::internal
