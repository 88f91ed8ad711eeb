#include "accelerate/launch/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace accelerate::internal::launch {
namespace {

sigset_t watched() {
  sigset_t set;
  ::sigemptyset(&set);
  // SIGPIPE is among them so that a reader of our output who leaves is an error of write(), not our end.
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGPIPE}) {
    struct sigaction action {};
    const bool ignored = ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
    if (!ignored || number == SIGCHLD) ::sigaddset(&set, number);
  }
  return set;
}

}  // namespace

SignalQueue::SignalQueue() {
  struct sigaction action {};
  // Inherited as ignored, children would be reaped behind our back.
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGCHLD, &action, nullptr);
  const sigset_t set = watched();
  if (::sigprocmask(SIG_BLOCK, &set, &before_) != 0) throw_errno("Holding signals back", errno, "Start again");
  descriptor_ = Descriptor(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!descriptor_.open()) {
    const int number = errno;
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
    throw_errno("Making a queue of signals", number, "Raise the limit: ulimit -n");
  }
}

SignalQueue::~SignalQueue() {
  // One that is still held back would strike as soon as it is let through.
  while (next()) continue;
  ::sigprocmask(SIG_SETMASK, &before_, nullptr);
}

std::optional<int> SignalQueue::next() {
  signalfd_siginfo info;
  ssize_t count = 0;
  do {
    count = ::read(descriptor_.number(), &info, sizeof(info));
  } while (count < 0 && errno == EINTR);
  if (count != sizeof(info)) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

std::string signal_name(int number) {
  const char* name = ::sigabbrev_np(number);
  return name == nullptr ? "signal " + std::to_string(number) : std::string("SIG") + name;
}

}  // namespace accelerate::internal::launch
