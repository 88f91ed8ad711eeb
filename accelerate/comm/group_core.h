#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "accelerate/comm/arrivals.h"
#include "accelerate/comm/group.h"
#include "accelerate/comm/liveness.h"
#include "accelerate/core/log.h"

namespace accelerate::internal {

/// What a group of several ranks is made from.
struct GroupSetup {
  c10::intrusive_ptr<c10d::Store> store;  ///< this group's own keys
  int rank = 0;
  int size = 1;
  c10::Device device{c10::kCPU};
  std::optional<std::string> backend = {};  ///< "gloo", "cpu:gloo,cuda:nccl"; unset: the best that connects
  std::chrono::milliseconds timeout{std::chrono::minutes(30)};
  std::string name = "world";
  bool one_host = false;  ///< as the launcher says: a transport for one host that does not work is worth a line
  std::shared_ptr<Liveness> liveness = {};
  Log log;
};

class LaunchedWork;

/// A group of several ranks over c10d. Every collective goes through `start`, which makes sure that it ends.
class GroupCore {
 public:
  /// Connects the transports; reached by every rank. Throws ConfigError for a backend that is not known or refuses.
  explicit GroupCore(GroupSetup setup);
  /// Over a group that the host program made. Lost ranks are what its own timeouts find.
  explicit GroupCore(c10::intrusive_ptr<c10d::ProcessGroup> group, Log log);
  ~GroupCore();
  GroupCore(const GroupCore&) = delete;
  GroupCore& operator=(const GroupCore&) = delete;

  int rank() const { return setup_.rank; }
  int size() const { return setup_.size; }
  const std::string& name() const { return setup_.name; }
  const c10::intrusive_ptr<c10d::ProcessGroup>& process_group() const { return group_; }
  /// The transports in use, "cpu:shm".
  const std::string& backends() const { return backends_; }
  /// Whether CPU tensors of different sizes would end the program: Gloo throws in a thread of its own. False for groups
  /// of GPUs, whose hosts do not wait for each other.
  bool needs_comparison() const { return needs_comparison_; }
  /// Whether lists of CPU tensors are gathered in one exchange without being packed.
  bool gathers_lists() const { return gathers_lists_; }
  const Log& log() const { return setup_.log; }

  /// Starts a collective (`operation` is a literal for messages); the future becomes what the work's own does, or fails
  /// with CommError when a rank is lost. Throws the same error when the call itself fails.
  using Starter = std::function<c10::intrusive_ptr<c10d::Work>()>;
  struct Started {
    c10::intrusive_ptr<c10d::Work> work;
    c10::intrusive_ptr<c10::ivalue::Future> future;  ///< null when the work had ended, without an error, in the call
    /// For code of c10d's own, which takes futures. Making one for a list of tensors costs what a small exchange costs.
    c10::intrusive_ptr<c10::ivalue::Future> any_future() const { return future ? future : work->getFuture(); }
  };
  Started start(const char* operation, const Starter& starter);

  /// As long as the token is kept, what is started is captured and not done: nobody can ask whether it has ended, and
  /// nothing is registered. The launch is an operation of its own.
  std::shared_ptr<void> capturing() { return capturing_; }
  bool is_capturing() const { return capturing_.use_count() > 1; }
  /// Of what is captured: exchanges that their caller did not wait for.
  Arrivals& arrivals() { return arrivals_; }

  /// Gives `device` captured work with collectives of these ranks. Throws CommError if a rank is lost; what has been
  /// launched last is watched like one operation.
  void launch(const char* operation, c10::Device device, const std::function<void()>& work);

  std::shared_ptr<GroupCore> split(int64_t color);
  /// Throws CommError if a rank is lost. For what exchanges nothing, and may have got what an aborted transport left in
  /// memory.
  void require_ranks(const char* operation) const;
  /// This rank takes part in nothing any more.
  void leave(const std::string& why) noexcept;

 private:
  void settle() noexcept;
  CommError explained(const Operation& operation, const std::exception_ptr& error) const;

  GroupSetup setup_;
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  std::string backends_;
  bool needs_comparison_ = false;
  bool gathers_lists_ = false;
  int64_t splits_ = 0;
  c10::intrusive_ptr<LaunchedWork> launched_;
  uint64_t last_launch_ = 0;
  std::shared_ptr<void> capturing_ = std::make_shared<char>();
  Arrivals arrivals_;
};

/// The core of a group of several ranks for code that needs c10d itself.
inline GroupCore& core_of(const Group& group) { return *group.core(); }

}  // namespace accelerate::internal
