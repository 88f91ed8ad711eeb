#include "accelerate/comm/random_state.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cstring>
#include <mutex>

#include "accelerate/comm/objects.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {

const char* const kRngTypes = "\"torch\", \"cuda\" or \"generator\"";

namespace {

std::string bytes_of(const at::Tensor& state) {
  return {static_cast<const char*>(state.const_data_ptr()), state.nbytes()};
}

void synchronize(const Group& group, at::Generator generator) {
  at::Tensor state;
  {
    const std::lock_guard lock(generator.mutex());
    state = generator.get_state().contiguous();
  }
  const std::string received = broadcast_bytes(group, bytes_of(state), 0);
  at::Tensor common = at::empty({static_cast<int64_t>(received.size())}, at::kByte);
  std::memcpy(common.mutable_data_ptr(), received.data(), received.size());
  const std::lock_guard lock(generator.mutex());
  generator.set_state(common);
}

[[noreturn]] void refuse(const std::string& type, const std::string& why) {
  throw UsageError({.place = "synchronize_rng_states",
                    .what = "The random state cannot be synchronised: " + why,
                    .got = "\"" + type + "\"",
                    .expected = std::string("one of ") + kRngTypes,
                    .remedy = "Leave it out, or pass what it needs"});
}

}  // namespace

std::optional<std::string> rng_type_refusal(const std::string& type, c10::Device device) {
  if (type == "torch" || type == "generator") return std::nullopt;
  if (type != "cuda") return "there is no random state of this name";
  if (device.is_cuda()) return std::nullopt;
  return "the device is \"" + device.str() + "\", which has no generator of CUDA";
}

void synchronize_rng_states(const Group& group, std::span<const std::string> types, c10::Device device,
                            at::Generator* generator) {
  // All of them are looked at before the first is exchanged.
  for (const std::string& type : types) {
    if (const auto refusal = rng_type_refusal(type, device)) refuse(type, *refusal);
    if (type == "generator" && generator == nullptr) refuse(type, "no generator was passed");
  }
  if (group.size() == 1) return;
  for (const std::string& type : types) {
    if (type == "generator") {
      synchronize(group, *generator);
    } else {
      synchronize(group,
                  type == "cuda" ? at::globalContext().defaultGenerator(device) : at::detail::getDefaultCPUGenerator());
    }
  }
}

uint64_t draw_common_seed(const Group& group) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  uint64_t seed = 0;
  {
    const std::lock_guard lock(generator.mutex());
    seed = generator.get<at::CPUGeneratorImpl>()->random64();
  }
  const std::string common = broadcast_bytes(group, {reinterpret_cast<const char*>(&seed), sizeof seed}, 0);
  std::memcpy(&seed, common.data(), sizeof seed);
  return seed;
}

}  // namespace accelerate::internal
