#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace examples {

struct Finished {
  int status = -1;
  std::string output;  // standard output and standard error together
  std::string last_line() const {
    const size_t end = output.find_last_not_of('\n');
    const size_t before = output.rfind('\n', end);
    return output.substr(before + 1, end - before);
  }
};

inline Finished run_command(const std::string& words) {
  const std::string command = "(" + words + ") 2>&1";
  std::FILE* pipe = popen(command.c_str(), "r");
  Finished result;
  char piece[4096];
  for (size_t count; (count = std::fread(piece, 1, sizeof piece, pipe)) > 0;) result.output.append(piece, count);
  const int status = pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

inline const std::string kPrograms = "'" ACCELERATE_EXAMPLES_DIR "'/";

inline Finished run(const std::string& arguments) { return run_command(kPrograms + arguments); }

/// In `processes` of them, on the CPU.
inline Finished launch(int processes, const std::string& arguments) {
  return run_command("'" ACCELERATE_CLI "' launch --cpu --num-processes " + std::to_string(processes) + " " +
                     kPrograms + arguments);
}

}  // namespace examples
