#pragma once

#include <functional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"

namespace accelerate::internal {

/// One word after `accelerate-cpp`: a source in cli/commands/ with a function `Command command_<name>()`.
struct Command {
  std::string name;
  std::string summary;  ///< one line of `accelerate-cpp --help`
  /// Does it and returns the exit code. May write to standard output and error. `arguments` are those after the name.
  /// Throws Error, whose text main prints; ConfigError gives exit code 2, others 1.
  std::function<int(std::vector<std::string> arguments, const Environment& environment)> run;
};

/// Those of cli/commands/, by name.
std::vector<Command> builtin_commands();

}  // namespace accelerate::internal
