#pragma once

#include <ATen/core/ivalue.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace accelerate::internal {

using Clock = std::chrono::steady_clock;

/// A collective that this rank has started and not finished.
struct Operation {
  uint64_t id = 0;
  uint64_t turn = 0;      ///< counts those in which every rank takes part, in program order; 0 for the others
  const char* name = "";  ///< a literal
  Clock::time_point start = {};
  c10::intrusive_ptr<c10::ivalue::Future> future = {};  ///< somebody waits on it and has to be told
  c10::intrusive_ptr<c10d::Work> work = {};             ///< the operation is over when this is
  std::optional<std::string> failure = {};              ///< what the transport said when it gave up
  Clock::time_point failed_at = {};
  bool timed_out = false;          ///< what it said was that ranks did not come
  Clock::time_point look_at = {};  ///< when to compare again what other ranks are doing
  bool logged = false;

  std::chrono::duration<double> elapsed() const { return Clock::now() - start; }
};

/// The operations in progress of one rank; whoever takes one out resolves it. Thread-safe.
class Operations {
 public:
  uint64_t begin(const char* name, bool of_world) {
    const std::lock_guard lock(mutex_);
    running_.push_back({.id = ++started_, .turn = of_world ? ++turns_ : 0, .name = name, .start = Clock::now()});
    return started_;
  }
  /// The same operation again, if it has not been taken, else a new one like it; `work` is over when all of them are.
  uint64_t again(uint64_t id, const char* name, bool of_world, const c10::intrusive_ptr<c10d::Work>& work) {
    const std::lock_guard lock(mutex_);
    const uint64_t turn = of_world ? ++turns_ : 0;
    for (Operation& operation : running_) {
      if (operation.id != id) continue;
      operation.turn = turn;
      operation.start = Clock::now();
      return id;
    }
    running_.push_back(
        {.id = ++started_, .turn = turn, .name = name, .start = Clock::now(), .future = {}, .work = work});
    return started_;
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return running_.size();
  }
  /// Changes operation `id` unless it is over.
  void update(uint64_t id, const std::function<void(Operation&)>& change) {
    const std::lock_guard lock(mutex_);
    for (Operation& operation : running_) {
      if (operation.id == id) change(operation);
    }
  }
  std::optional<Operation> take(uint64_t id) {
    auto taken = take_if([id](const Operation& operation) { return operation.id == id; });
    if (taken.empty()) return std::nullopt;
    return std::move(taken.front());
  }
  std::vector<Operation> take_if(const std::function<bool(const Operation&)>& predicate) {
    const std::lock_guard lock(mutex_);
    std::vector<Operation> taken, kept;
    for (Operation& operation : running_) (predicate(operation) ? taken : kept).push_back(std::move(operation));
    running_ = std::move(kept);
    return taken;
  }
  void for_each(const std::function<void(Operation&)>& visit) {
    const std::lock_guard lock(mutex_);
    for (Operation& operation : running_) visit(operation);
  }
  /// How many turns have begun.
  uint64_t turns() const {
    const std::lock_guard lock(mutex_);
    return turns_;
  }

 private:
  mutable std::mutex mutex_;
  uint64_t started_ = 0, turns_ = 0;
  std::vector<Operation> running_;
};

}  // namespace accelerate::internal
