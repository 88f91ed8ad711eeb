#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/launch/descriptor.h"

namespace accelerate::internal::launch {

/// How a process ended: by a signal, or with a code.
struct Ending {
  int code = 0;
  int signal = 0;

  bool failed() const { return code != 0 || signal != 0; }
  /// As shells have it: the code, or 128 + signal.
  int exit_code() const { return signal != 0 ? 128 + signal : code; }
};

/// Where a child's standard stream goes.
enum class Stream { kInherited, kPipe, kNull };

struct ProcessOptions {
  std::string file;                                ///< found already, not looked for
  std::vector<std::string> arguments;              ///< the program's name first
  std::map<std::string, std::string> environment;  ///< whole
  Stream in = Stream::kInherited;                  ///< no pipe
  Stream out = Stream::kInherited;
  Stream error = Stream::kInherited;
};

/// One child, leader of a session of its own: a terminal's keys do not reach it, and signals reach all of its group.
/// The kernel kills it when this process ends in whatever way. Destroyed while the group lives, it kills the group.
class Process {
 public:
  /// Returns when the program runs. Throws ProgramError if it cannot be executed, ConfigError if no process can be
  /// made.
  static Process start(const ProcessOptions& options);
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;
  ~Process();

  pid_t id() const { return id_; }
  /// Read ends, non-blocking; not open where no pipe was asked for.
  Descriptor out, error;

  /// To every member of the group; nothing once the group is gone.
  void signal(int number) const noexcept;
  const std::optional<Ending>& ending() const { return ending_; }
  /// Whether no process of the group is left.
  bool group_gone() const { return group_gone_; }

  /// Takes in what waitpid() told about `id`, which may be any process: `status` if it was this one, and whether
  /// somebody is left in the group. Its number is not given to another process before the group is gone.
  void reaped(pid_t id, int status) noexcept;

 private:
  explicit Process(pid_t id) : id_(id) {}
  pid_t id_ = -1;
  std::optional<Ending> ending_;
  bool group_gone_ = false;
};

/// Makes this process the parent of orphans below it, so that waitpid() tells when a group is gone. Throws ConfigError.
void adopt_orphans();

}  // namespace accelerate::internal::launch
