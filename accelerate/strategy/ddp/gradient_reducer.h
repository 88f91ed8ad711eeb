#pragma once

#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "accelerate/core/log.h"
#include "accelerate/strategy/ddp.h"
#include "accelerate/strategy/ddp/comm_hook.h"
#include "accelerate/strategy/ddp/reducer_group.h"
#include "accelerate/strategy/ddp/side_stream.h"

namespace c10d {
class Logger;
}

namespace accelerate::internal {

/// One trainable parameter of a model, once however many names it has.
struct ReducedParameter {
  std::string name;
  at::Tensor tensor;
  bool sparse_gradient = false;
};

/// LibTorch's Reducer, armed for one backward at a time. Its hooks sit on the parameters' gradient accumulators: while
/// armed they fill the buckets and start their all-reduces, otherwise gradients stay local.
///
/// Buckets start as one and are cut in the order in which gradients came after the first backward, on every rank as on
/// rank 0. A process that resumes starts again from one bucket: where the transport's order of addition depends on an
/// element's place in its tensor, the first update may differ from the uninterrupted run's in the last bits.
class GradientReducer {
 public:
  /// How gradients travel: a hook of the strategy's, which outlives the reducer, or null.
  struct Travel {
    CommHook* hook = nullptr;
    Log log;
  };
  GradientReducer(std::vector<ReducedParameter> parameters, const Ddp& options, c10::intrusive_ptr<ReducerGroup> group,
                  Travel travel);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// The next backward, from `loss`, averages the gradients.
  void arm(const at::Tensor& loss);
  /// What the backward since `arm` came to.
  enum class Outcome {
    kUntouched,   ///< it reached no parameter: nothing was exchanged, and nothing is armed
    kReduced,     ///< every rank has the means
    kIncomplete,  ///< some parameters got no gradient here; the others may be waiting for them
  };
  Outcome finish();
  /// After kIncomplete, or after autograd threw: gives NaN for what is missing, so that every rank comes to an end and
  /// sees it.
  void give_up();
  /// After kIncomplete: 1 for each parameter that got no gradient on this rank.
  std::vector<uint8_t> without_gradient() const;
  /// Whether the reduced gradients are NaN where a rank that gives up makes them so. False for gradients on a device
  /// whose memory the host cannot read.
  bool looks_spoiled() const;
  /// Lets the buckets follow the order in which gradients came, once. Reached by every rank after the same backward.
  void cut_buckets();
  /// Whether `cut_buckets` has something to do.
  bool buckets_are_due() const;

  /// For a rank that has no data while the others run a backward pass: the hook is called for bucket `index` with
  /// gradients of zero, as it is on the others.
  void shadow_hook(size_t index);
  /// For such a rank that may have had no backward pass at all: what `cut_buckets` does on the others.
  void shadow_cut();
  /// Whether some backward pass was armed.
  bool was_armed() const;
  /// Who is told before the hook takes a bucket; empty: nobody.
  void on_hook(std::function<void(size_t index)> listener) { listener_ = std::move(listener); }

  /// Whether the mean of this parameter's gradient is among the last that a pass comes to, in the gradient's own
  /// memory. The same from one cut of the buckets to the next.
  bool comes_last(const at::Tensor& parameter) const;

  /// Whether a backward has come by since the last armed one.
  bool touched() const;
  void set_touched(bool value);
  /// The nodes in which the parameters' gradients arrive.
  std::unordered_set<const torch::autograd::Node*> accumulators() const;
  const std::vector<ReducedParameter>& parameters() const { return parameters_; }
  const ReducerGroup& group() const { return *group_; }
  /// Waits for what was started; false after a failure in it.
  bool drain() noexcept { return group_->drain(); }

 private:
  class Engine;
  class Registered;
  HookFuture run_hook(c10d::GradBucket& bucket);
  bool stays_in_buckets() const;

  std::vector<ReducedParameter> parameters_;
  Ddp options_;
  c10::intrusive_ptr<ReducerGroup> group_;
  Travel travel_;
  std::function<void(size_t)> listener_;
  SideStream side_;
  std::shared_ptr<Engine> engine_;
  std::shared_ptr<c10d::Logger> logger_;
  std::vector<HookFuture> shadowed_;  ///< of the buckets so far
  size_t recorded_ = 0;               ///< buckets so far while a static graph's first pass ends
};

}  // namespace accelerate::internal
