#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"

namespace accelerate {

/// Where this process stands among those that train together.
struct World {
  int64_t rank = 0;        ///< `process_index`
  int64_t size = 1;        ///< `num_processes`
  int64_t local_rank = 0;  ///< `local_process_index`, within the host
  int64_t local_size = 1;
  bool operator==(const World&) const = default;
};

/// One way of learning the World from the environment: a launcher, a scheduler, or none.
struct EnvironmentEntry {
  std::string name;
  /// Nothing when this entry describes the process's environment, else the reason why it does not.
  std::optional<std::string> (*refusal)(const Environment& environment);
  /// Called only after `refusal` returned nothing.
  World (*world)(const Environment& environment);
};

namespace internal {

/// The plug-in folder `comm/environments`.
std::vector<EnvironmentEntry> builtin_environments();

/// The world of the one entry that applies. Throws ConfigError with every entry's reason when none does.
struct DiscoveredWorld {
  std::string environment;
  World world;
};
DiscoveredWorld discover_world(const std::vector<EnvironmentEntry>& entries, const Environment& environment);

}  // namespace internal
}  // namespace accelerate
