#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"
#include "accelerate/launch/config.h"
#include "accelerate/launch/process.h"

namespace accelerate::internal::launch {

/// The rank that ended first of those that failed.
struct Failure {
  int64_t rank = 0;
  pid_t process = 0;
  Ending ending;
  std::vector<std::string> last_lines = {};  ///< of its standard error
  bool address_in_use = false;               ///< it said so there
};

struct LaunchResult {
  std::optional<Failure> failure;
  std::optional<int> signal;       ///< that ended the launch, received by this process
  int64_t killed = 0;              ///< ranks that needed SIGKILL
  std::vector<int64_t> remaining;  ///< ranks that did not even end then
  /// That of the first failure, or 128 + signal, or 0.
  int exit_code() const;
};

/// Starts the ranks of a plan and stays until all have ended.
///  - Standard output passes through this process only when it is prefixed; standard error always does. The first rank
///    has this process's standard input, the others an empty one.
///  - When a rank fails, the others get SIGTERM, and SIGKILL after the plan's grace. So does what ranks leave behind.
///  - SIGINT, SIGTERM, SIGHUP and SIGQUIT are handed on and end the launch, after the grace or at the second one with
///    SIGKILL; SIGUSR1 and SIGUSR2 are handed on; SIGTSTP stops the ranks too, until this process continues.
/// All children of this process are taken for its own, and it becomes the parent of their orphans. Throws ConfigError
/// if the port is in use or a process cannot be made, ProgramError if the program cannot be started.
LaunchResult launch(LaunchPlan plan, const Environment& environment);

/// For standard error: which rank failed, how, its last lines; empty after success.
std::string report(const LaunchResult& result, const LaunchPlan& plan);

}  // namespace accelerate::internal::launch
