#include "accelerate/comm/backends/shm/peers.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace accelerate::internal::shm {
namespace {

constexpr int kThread = -1, kEnded = -2;

int open_process(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

}  // namespace

bool Peers::supported() noexcept {
  const int descriptor = open_process(::getpid());
  if (descriptor < 0) return false;
  ::close(descriptor);
  return true;
}

Peers::Peers(const std::vector<pid_t>& pids) {
  descriptors_.reserve(pids.size());
  for (const pid_t pid : pids) {
    if (pid == ::getpid()) {
      descriptors_.push_back(kThread);
      continue;
    }
    const int descriptor = open_process(pid);
    // Any other failure (no descriptor left) costs the early news alone: a timeout still ends the wait.
    descriptors_.push_back(descriptor >= 0 ? descriptor : errno == ESRCH ? kEnded : kThread);
  }
}

Peers::~Peers() {
  for (const int descriptor : descriptors_) {
    if (descriptor >= 0) ::close(descriptor);
  }
}

bool Peers::ended(int rank) const noexcept {
  const int descriptor = descriptors_[rank];
  if (descriptor < 0) return descriptor == kEnded;
  pollfd request{descriptor, POLLIN, 0};
  return ::poll(&request, 1, 0) > 0;
}

}  // namespace accelerate::internal::shm
