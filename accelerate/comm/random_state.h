#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "accelerate/comm/group.h"

namespace at {
struct Generator;
}

namespace accelerate::internal {

/// What cannot be synchronised by this name on this device, and why; nothing when it can. "torch" is LibTorch's default
/// generator of the CPU, "cuda" that of the device, "generator" one that is handed over: a loader's own at the start of
/// a pass. Source: `accelerate.utils.RNGType`.
std::optional<std::string> rng_type_refusal(const std::string& type, c10::Device device);
/// The names, for messages.
extern const char* const kRngTypes;

/// Gives every rank the random states of rank 0, byte for byte, one after the other; in a group of one nothing happens.
/// Throws UsageError for a name that is not known or does not apply, and for "generator" without one.
/// Source: `accelerate.utils.synchronize_rng_states`.
void synchronize_rng_states(const Group& group, std::span<const std::string> types, c10::Device device,
                            at::Generator* generator);

/// A seed drawn from LibTorch's default generator of the CPU, the same on every rank: rank 0's. The other ranks draw as
/// well, so that their generators move alike.
uint64_t draw_common_seed(const Group& group);

}  // namespace accelerate::internal
