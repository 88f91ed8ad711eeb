#pragma once

#include <csignal>
#include <optional>
#include <string>

#include "accelerate/launch/descriptor.h"

namespace accelerate::internal::launch {

/// Signals as something to poll: while this lives, they are held back and come out of next(). Those that whoever
/// started this process had it ignore (nohup, a shell's background job) stay ignored. Children are started with none
/// held back.
class SignalQueue {
 public:
  /// Throws ConfigError with the system's reason.
  SignalQueue();
  ~SignalQueue();
  SignalQueue(const SignalQueue&) = delete;
  SignalQueue& operator=(const SignalQueue&) = delete;

  int descriptor() const { return descriptor_.number(); }
  /// The next one that has come, without waiting.
  std::optional<int> next();

 private:
  sigset_t before_;
  Descriptor descriptor_;
};

/// "SIGKILL"; "signal 40" for one without a name.
std::string signal_name(int number);

}  // namespace accelerate::internal::launch
