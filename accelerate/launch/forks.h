#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/launch/descriptor.h"
#include "accelerate/launch/process.h"

namespace accelerate::internal::launch {

/// What became of one copy of this process.
struct ForkOutcome {
  std::optional<std::string> exception = {};  ///< the text of what the function threw
  bool of_others = false;                     ///< it threw because another one is lost (CommError)
  Ending ending = {};
  bool by_us = false;  ///< it was ended from here
  bool failed() const { return exception.has_value() || ending.failed(); }
};

/// Copies of this process that each run one function and end. Destroyed, it kills those that are left.
class Forks {
 public:
  Forks() = default;
  ~Forks();
  Forks(const Forks&) = delete;
  Forks& operator=(const Forks&) = delete;

  /// In the copy, `function` runs with `variables` set on top of the environment, with standard input or an empty one.
  /// Throws ConfigError if no process can be made.
  void start(const std::map<std::string, std::string>& variables, Stream in, const std::function<void()>& function);

  struct Limits {
    std::optional<std::chrono::milliseconds> all = {};  ///< then those that are left are ended
    std::chrono::milliseconds grace{};                  ///< from the first failure to SIGTERM, and to SIGKILL
  };
  /// Returns when every one has ended: what became of them, in the order of their starts, and in `order` the indices of
  /// those that failed, the first first.
  struct Result {
    std::vector<ForkOutcome> outcomes;
    std::vector<size_t> order;
    bool timed_out = false;
  };
  Result wait(const Limits& limits);

 private:
  struct Fork {
    pid_t id = -1;
    Descriptor report;
    std::string text = {};  ///< of the report
    bool ended = false;
    ForkOutcome outcome = {};
  };
  /// Whether something came.
  bool read_reports(std::chrono::milliseconds wait);
  void reap(Fork& fork);
  void signal_all(int number);
  std::vector<Fork> forks_;
};

}  // namespace accelerate::internal::launch
