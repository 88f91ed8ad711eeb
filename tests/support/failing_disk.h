#pragma once

#include <signal.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>

namespace accelerate::support {

/// While it lives, no file of this process grows past `bytes`: further writes fail with EFBIG, as on a full disk.
class FullDisk {
 public:
  explicit FullDisk(uint64_t bytes) : signal_(::signal(SIGXFSZ, SIG_IGN)) {
    if (::getrlimit(RLIMIT_FSIZE, &before_) != 0) throw std::runtime_error("getrlimit failed");
    const rlimit now{bytes, before_.rlim_max};
    if (::setrlimit(RLIMIT_FSIZE, &now) != 0) throw std::runtime_error("setrlimit failed");
  }
  ~FullDisk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, signal_);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
  sighandler_t signal_;
};

/// While it lives, this thread meets file permissions as an ordinary user does, also where tests run as root.
class OrdinaryUser {
 public:
  OrdinaryUser() : before_(::setfsuid(::geteuid() == 0 ? 65534 : ::geteuid())) {}
  ~OrdinaryUser() { ::setfsuid(static_cast<uid_t>(before_)); }
  OrdinaryUser(const OrdinaryUser&) = delete;
  OrdinaryUser& operator=(const OrdinaryUser&) = delete;

 private:
  int before_;
};

}  // namespace accelerate::support
