#pragma once

#include <cstdint>
#include <functional>
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

/// Where the ranks meet before they can talk. Nothing is set for one process.
struct Rendezvous {
  std::string address = {};  ///< host name or address of the store
  uint16_t port = 0;
  bool served = false;      ///< the launcher serves the store there; else rank 0 does
  std::string file = {};    ///< instead of an address: a file that every rank can write
  std::string prefix = {};  ///< of this run's keys, where a store serves several runs
  bool operator==(const Rendezvous&) const = default;
};

/// What a launcher told this process.
struct Launched {
  World world = {};
  Rendezvous rendezvous = {};
  bool own_gpus = false;  ///< the GPUs this process sees are its own, so it takes the first of them
};

/// One way of learning the World from the environment: a launcher, a scheduler, or none.
struct EnvironmentEntry {
  std::string name;
  /// Among entries that apply the highest decides: a launcher that runs inside a scheduler's job knows better.
  int preference = 0;
  /// Nothing when this entry describes the process's environment, else the reason why it does not.
  std::function<std::optional<std::string>(const Environment& environment)> refusal;
  /// Called only after `refusal` returned nothing. Throws ConfigError when variables are missing or contradict each
  /// other.
  std::function<Launched(const Environment& environment)> launched;
};

namespace internal {

/// The plug-in folder `comm/environments`.
std::vector<EnvironmentEntry> builtin_environments();

/// What several environments share.
/// The variable's value. Throws ConfigError when it is missing, naming the one that made it necessary.
int64_t required(const Environment& environment, const char* name, const std::string& because);
/// MASTER_ADDR, else `address`; MASTER_PORT, else `port`. Throws ConfigError for a port that is none.
Rendezvous rendezvous_from(const Environment& environment, std::string address = {}, int64_t port = 29500);

/// What the preferred one of the entries that apply says. Throws ConfigError with every entry's reason when none does,
/// and for a world that cannot be: a rank outside its size, several ranks without a place to meet.
struct DiscoveredWorld {
  std::string environment;
  Launched launched;
};
DiscoveredWorld discover_world(std::vector<EnvironmentEntry> entries, const Environment& environment);

}  // namespace internal
}  // namespace accelerate
