#include "accelerate/comm/world.h"

#include "accelerate/core/error.h"

namespace accelerate::internal {

DiscoveredWorld discover_world(const std::vector<EnvironmentEntry>& entries, const Environment& environment) {
  std::string reasons;
  for (const EnvironmentEntry& entry : entries) {
    const auto refusal = entry.refusal(environment);
    if (!refusal) return {entry.name, entry.world(environment)};
    reasons += (reasons.empty() ? "" : "; ") + entry.name + ": " + *refusal;
  }
  throw ConfigError({.place = "environment",
                     .what = "No known way of starting processes fits the environment variables",
                     .got = reasons,
                     .expected = "one process",
                     .remedy = "Start the program without a launcher, or unset the variable"});
}

}  // namespace accelerate::internal
