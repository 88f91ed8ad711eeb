#pragma once

#include <sys/types.h>

#include <vector>

namespace accelerate::internal::shm {

/// The processes of the other ranks, by descriptors that become readable when a process ends: no confusion with a later
/// process of the same number.
class Peers {
 public:
  /// `pids` by rank. Ranks of this very process are threads and never count as ended.
  explicit Peers(const std::vector<pid_t>& pids);
  ~Peers();
  Peers(Peers&& other) noexcept = default;
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  /// Whether this system lets a process watch another (Linux 5.3, not filtered).
  static bool supported() noexcept;

  /// Whether the process of `rank` has ended.
  bool ended(int rank) const noexcept;

 private:
  std::vector<int> descriptors_;  // kThread, kEnded or a descriptor
};

}  // namespace accelerate::internal::shm
