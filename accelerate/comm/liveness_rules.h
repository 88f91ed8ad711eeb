#pragma once

#include <algorithm>
#include <chrono>

namespace accelerate::internal {

/// When a rank counts as lost or slow.
struct LivenessRules {
  std::chrono::milliseconds interval{1000};  ///< between two heartbeats
  std::chrono::milliseconds silence{10000};  ///< without a heartbeat a rank is lost
  /// In an operation that cannot end: a rank of it said goodbye, or is in another one.
  std::chrono::milliseconds stuck{3000};
  std::chrono::milliseconds slow{30000};  ///< in one operation before a line of log names who is missing

  /// Ten heartbeats make a silence.
  static LivenessRules of(std::chrono::milliseconds silence, std::chrono::milliseconds slow) {
    return {.interval = std::max(silence / 10, std::chrono::milliseconds(1)),
            .silence = silence,
            .stuck = silence * 3 / 10,
            .slow = slow};
  }
};

}  // namespace accelerate::internal
