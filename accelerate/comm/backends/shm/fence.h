#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/comm/backends/shm/peers.h"
#include "accelerate/comm/backends/shm/segment.h"
#include "accelerate/core/error.h"

namespace accelerate::internal::shm {

/// Where the ranks of a segment wait for each other.
///
///   fence.begin(call, timeout);
///   ... write to own buffers ...   fence.arrive();
///   fence.wait();                  ... read the buffers of the others ...
///
/// Whatever a rank wrote before `arrive` is seen by those that return from `wait`. The first `wait` of a call compares
/// the calls of all ranks.
///
/// Errors are CommError and final: the ranks that come later learn of it, and every further `begin` throws the same.
class Fence {
 public:
  /// `lost` (may be empty) says which rank is known to be lost, if any; it is asked during long waits.
  Fence(Segment& segment, int rank, Peers peers, std::string group, std::function<std::optional<std::string>()> lost);

  /// A collective starts. Throws what broke the fence before; UsageError after `close`.
  void begin(const Call& call, std::chrono::milliseconds timeout);

  /// This rank has come one fence further. The others' waits end when all have.
  void arrive() noexcept;

  /// Until every rank has arrived as often as this one. Throws when the calls differ, a rank ended, left, failed, is
  /// reported lost or did not come in time, or after `abort`.
  void wait();

  /// The collective fails on this rank: the others are told. Throws CommError(text) and so does every later `begin`.
  [[noreturn]] void fail(ErrorText text);

  /// This rank comes to no further fence. Idempotent.
  void close() noexcept;

  /// Ends a wait of this rank that another thread is in, within 50 ms.
  void abort() noexcept { aborted_.store(true, std::memory_order_release); }

  /// Collectives begun so far.
  uint64_t calls() const noexcept { return calls_; }

  /// "every rank of group `world` to come to all_reduce(sum) of 3 x Float".
  std::string expectation() const;

 private:
  using Clock = std::chrono::steady_clock;

  bool behind(int rank) noexcept;
  void wait_for(int rank);
  void sleep(int rank, uint32_t seen) noexcept;
  void look_around();
  [[noreturn]] void fail_aborted();
  void compare_calls();
  void say_farewell(Farewell::State state, const std::string& text) noexcept;
  std::string waited() const;

  Segment& segment_;
  const int rank_;
  const int size_;
  const int yields_;
  const int process_;
  Peers peers_;
  const std::string group_;
  const std::function<std::optional<std::string>()> lost_;

  uint32_t arrived_ = 0;
  uint64_t calls_ = 0;
  Call call_;
  bool compared_ = true;
  std::chrono::milliseconds timeout_{0};
  Clock::time_point waiting_since_;
  std::optional<ErrorText> broken_;
  bool closed_ = false;
  std::atomic<bool> aborted_{false};
};

}  // namespace accelerate::internal::shm
