#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace accelerate::faults {

/// How a process ended and what it and everything below it wrote.
struct Ended {
  int exit_code = 0;      ///< 128 + signal for one that a signal ended
  std::string text;       ///< standard output and error
  bool by_us = false;     ///< it had not ended in time, or stood still when all others had ended
  bool leftover = false;  ///< processes of its were still there
};

using Variables = std::map<std::string, std::string>;

struct Command {
  std::vector<std::string> words;  ///< the program's path first
  Variables environment;           ///< besides PATH; nothing is inherited
};

/// Runs the commands side by side until all have ended. One that is stopped is killed once the others are over, and
/// every one after half a minute.
std::vector<Ended> run(const std::vector<Command>& commands);

/// What goes wrong, on which rank of how many, over which transport.
struct Run {
  std::string fault = {};
  std::string backend = {};
  int ranks = 2;
  int faulty = 1;
  /// Changes the command of a rank; a rank without words is not started.
  void (*change)(int rank, Command& command) = nullptr;
};

/// `faults_rank` once per rank with torchrun's variables; `port` 0 is a free one.
std::vector<Ended> run_ranks(const Run& run, int port = 0);
/// The same through `accelerate-cpp launch`.
Ended run_launched(const Run& run);

/// A TCP port that nobody listens on.
int free_port();

std::vector<std::string> lines(const std::string& text);

/// Names in the folder of shared memory that this project made.
std::vector<std::string> shared_memory();

}  // namespace accelerate::faults
