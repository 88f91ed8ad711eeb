#pragma once

#include <string>

#include "accelerate/core/env.h"
#include "accelerate/core/error.h"

namespace accelerate::internal::launch {

/// A program that cannot be started. `exit_code` is what a shell would say: 127 not found, 126 found but not startable.
class ProgramError : public ConfigError {
 public:
  ProgramError(int exit_code, ErrorText text) : ConfigError(std::move(text)), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// The file that a shell would start for `name`: `name` itself if it has a slash, else the first executable of that
/// name in PATH. Throws ProgramError if there is none, or if it is a folder or not executable.
std::string find_program(const std::string& name, const Environment& environment);

/// Why exec() failed for a file that find_program() had found: a script without its first line, a missing interpreter,
/// another machine's format, or the system's text.
ProgramError exec_failure(const std::string& file, int number);

}  // namespace accelerate::internal::launch
