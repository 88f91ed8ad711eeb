#include "accelerate/comm/world.h"

#include <algorithm>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

void check(const std::string& environment, const Launched& launched) {
  const World& world = launched.world;
  const bool possible = world.size >= 1 && world.rank >= 0 && world.rank < world.size && world.local_size >= 1 &&
                        world.local_rank >= 0 && world.local_rank < world.local_size;
  if (!possible) {
    throw ConfigError({.place = "environment \"" + environment + "\"",
                       .what = "The variables describe a process that cannot be",
                       .got = "rank " + std::to_string(world.rank) + " of " + std::to_string(world.size) +
                              ", local rank " + std::to_string(world.local_rank) + " of " +
                              std::to_string(world.local_size),
                       .expected = "ranks from 0 to one less than their number",
                       .remedy = "Start the program through its launcher instead of setting the variables by hand"});
  }
  if (world.size > 1 && launched.rendezvous.address.empty() && launched.rendezvous.file.empty()) {
    throw ConfigError({.place = "environment \"" + environment + "\"",
                       .what = "The processes have no place to meet",
                       .got = std::to_string(world.size) + " processes and no MASTER_ADDR",
                       .expected = "an address that every process can reach",
                       .remedy = "Type `export MASTER_ADDR=<host of rank 0> MASTER_PORT=29500` before the launch"});
  }
}

}  // namespace

int64_t required(const Environment& environment, const char* name, const std::string& because) {
  if (const auto value = environment.integer(name)) return *value;
  throw ConfigError({.place = "environment",
                     .what = "A launcher's variable is missing",
                     .got = because + " without " + name,
                     .expected = "both",
                     .remedy = std::string("Set ") + name +
                               ", or unset the other to train in one process; a launcher sets all of them"});
}

Rendezvous rendezvous_from(const Environment& environment, std::string address, int64_t port) {
  Rendezvous rendezvous{.address = environment.text("MASTER_ADDR").value_or(std::move(address))};
  port = environment.integer("MASTER_PORT").value_or(port);
  if (port < 1 || port > 65535) {
    throw ConfigError({.place = "environment",
                       .what = "The port is none",
                       .got = "MASTER_PORT=" + std::to_string(port),
                       .expected = "1 to 65535",
                       .remedy = "Set MASTER_PORT to a port that is free on the host of rank 0"});
  }
  rendezvous.port = static_cast<uint16_t>(port);
  return rendezvous;
}

DiscoveredWorld discover_world(std::vector<EnvironmentEntry> entries, const Environment& environment) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const EnvironmentEntry& a, const EnvironmentEntry& b) { return a.preference > b.preference; });
  std::string reasons;
  for (const EnvironmentEntry& entry : entries) {
    if (const auto refusal = entry.refusal(environment)) {
      reasons += (reasons.empty() ? "" : "; ") + entry.name + ": " + *refusal;
      continue;
    }
    Launched launched = entry.launched(environment);
    check(entry.name, launched);
    return {entry.name, std::move(launched)};
  }
  throw ConfigError({.place = "environment",
                     .what = "No known way of starting processes fits the environment variables",
                     .got = reasons,
                     .expected = "the variables of one launcher, or of none",
                     .remedy = "Start the program with accelerate-cpp launch or another launcher, or unset them"});
}

}  // namespace accelerate::internal
