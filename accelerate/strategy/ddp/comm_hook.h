#pragma once

#include <torch/csrc/distributed/c10d/comm.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "accelerate/core/log.h"
#include "accelerate/strategy/ddp.h"
#include "accelerate/strategy/ddp/reducer_group.h"

namespace accelerate::internal {

using HookFuture = c10::intrusive_ptr<c10::ivalue::Future>;

/// One bucket of gradients whose turn it is: a dense vector of floating-point numbers, this rank's own.
struct HookCall {
  c10d::GradBucket& bucket;
  size_t index = 0;   ///< of the bucket among those of this pass that the hook is given, from 0 on
  bool last = false;  ///< no other is given to it in this pass
  ReducerGroup& ranks;
  const Log& log;
};

/// How the gradients of one model travel between the ranks. Belongs to the model's strategy and lives as long.
class CommHook {
 public:
  virtual ~CommHook() = default;
  /// Starts to replace what is in the bucket's buffer by the mean over the ranks, and returns a future that is complete
  /// when that has happened, or has failed. All-reduces only, through `call.ranks`, started inside a call of `run` and
  /// never in a callback of a future, in an order that is the same on every rank. What one rank spoils with NaN is NaN
  /// on every rank. The last bucket's future may depend on nothing that comes later.
  virtual HookFuture run(HookCall call) = 0;
  /// From now on buckets hold other parameters: what is remembered of them is void. On every rank between the same
  /// passes.
  virtual void forget() {}
};

/// One way of sending gradients: the plug-in folder `strategy/ddp/hooks`.
struct HookEntry {
  std::string name;
  /// Null: as the Reducer does it itself. Throws ConfigError for a state that the hook does not have or out of range.
  std::function<std::unique_ptr<CommHook>(const CommStateOption& state)> make;
  /// As `comm_wrapper`: what it makes of the hook inside. Empty: it is no wrapper.
  std::function<std::unique_ptr<CommHook>(std::unique_ptr<CommHook> inner)> wrap = {};
};

std::vector<HookEntry> builtin_hooks();

/// The hook that `options` choose, null for none. Throws ConfigError for names that are not known, a wrapper around
/// nothing, and a state that the hook does not have.
std::unique_ptr<CommHook> make_hook(const Ddp& options);

/// For a hook without a state. Throws ConfigError if it is given one.
void require_no_state(const std::string& hook, const CommStateOption& state);

/// The mean of `tensor`, in place: divided first, so that the sum cannot overflow where the mean does not.
/// Source: `default_hooks._allreduce_fut`.
HookFuture average(at::Tensor tensor, ReducerGroup& ranks);

}  // namespace accelerate::internal
