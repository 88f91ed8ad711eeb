#pragma once

#include "accelerate/comm/group.h"
#include "accelerate/comm/handles.h"
#include "accelerate/comm/liveness_rules.h"
#include "accelerate/comm/world.h"
#include "accelerate/core/log.h"

#include <c10/core/Device.h>

#include <chrono>
#include <optional>
#include <string>

namespace accelerate::internal {

/// What connecting the ranks of a world takes.
struct Connection {
  World world;
  Rendezvous rendezvous = {};
  StoreHandle store = {};                 ///< instead of a rendezvous
  ProcessGroupHandle process_group = {};  ///< instead of both
  c10::Device device{c10::kCPU};
  std::optional<std::string> backend = {};
  std::chrono::milliseconds timeout{};
  std::chrono::milliseconds rendezvous_timeout{};
  LivenessRules liveness = {};
};

/// The group of all ranks; of one rank without opening anything. Throws CommError or ConfigError.
Group connect(const Connection& connection, const Log& log);
/// Rank and size of a group that exists; its ranks count as sharing one host.
World world_of(const ProcessGroupHandle& process_group);

}  // namespace accelerate::internal
