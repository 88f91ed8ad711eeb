#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/comm/liveness_rules.h"
#include "accelerate/comm/operations.h"
#include "accelerate/core/error.h"
#include "accelerate/core/log.h"

namespace c10d {
class Store;
}

namespace accelerate::internal {

/// Tells a rank that is gone from one that is slow. Every rank counts up a key of its own in the store, and each
/// watches the next one; what one finds all learn. Operations in progress are registered here, so that one that cannot
/// end any more fails with a text that names the rank. Two threads: one talks to the store, which may never answer
/// again, one watches the clock. Thread-safe.
class Liveness {
 public:
  struct Place {
    int rank = 0;
    int size = 1;
    bool serves_store = false;               ///< this rank's end takes the store away
    std::string store_server = "The store";  ///< who is lost when the store is, at the start of a sentence
  };
  Liveness(c10::intrusive_ptr<c10d::Store> store, Place place, Log log, LivenessRules rules = {});
  /// Says goodbye if `leave` has not.
  ~Liveness();
  Liveness(const Liveness&) = delete;
  Liveness& operator=(const Liveness&) = delete;

  /// This rank takes part in nothing any more; `why` is told to ranks that wait for it. The rank that serves the store
  /// lingers until the others have left too or had time to hear it.
  void leave(const std::string& why) noexcept;
  /// After `leave`: waits until the others know, a while at most. False if the store does not answer.
  bool linger() noexcept;

  /// Why operations in progress cannot end: a rank that is lost, or one that left before reaching them. Nothing while
  /// all is well; cheap.
  std::optional<std::string> lost() const;
  /// Waits until `lost()` says something, or as long as it takes to know that it will not. For a transport that failed
  /// and cannot tell why.
  std::optional<std::string> find_lost() const;
  /// Whether an operation was failed that its transport may still be busy with. Actions of `on_lost` under way get a
  /// few seconds to end first: a program that ends in the middle of them may crash.
  bool gave_up() const;
  /// Waits until nothing is left that a device has to do. False if that cannot be, because a rank is lost, or took
  /// longer than `timeout`.
  bool settle(std::chrono::milliseconds timeout) const noexcept;
  /// Called when a rank is lost, from a thread that nobody waits for longer than that; transports that block a device
  /// abort there.
  void on_lost(std::function<void()> action);

  Operations& operations();
  /// What devices have been given has become much: looks soon for what they are through with.
  void look() noexcept;
  /// The error for an operation that ended with `what`.
  CommError error(const Operation& operation, const std::string& what) const;

 private:
  struct State;
  static void talk(const std::shared_ptr<State>& state);
  static void watch(const std::shared_ptr<State>& state);
  static void sweep(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_;
};

}  // namespace accelerate::internal
