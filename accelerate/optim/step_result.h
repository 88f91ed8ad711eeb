#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>

namespace accelerate {

namespace internal {

/// What the device makes of an update that is queued.
class PendingOutcome {
 public:
  virtual ~PendingOutcome() = default;
  /// Whether `skipped()` answers at once.
  virtual bool known() = 0;
  /// Waits for the update, for nothing else.
  virtual bool skipped() = 0;
  /// What `skipped()` will say, for work that is queued on the device from here to the next update: float32, [1], not 0
  /// for skipped. It stays the same tensor. Undefined: there is none, or the next update is queued already.
  virtual at::Tensor verdict() const { return {}; }
};

}  // namespace internal

/// What `Optimizer::step()` did; exactly one of the three is true. A handle: asking may wait for the device, keeping it
/// does not. With a scaled loss on a GPU the device decides: then `applied()` and `skipped()` wait until the update is
/// done, and schedules follow it without waiting.
class StepResult {
 public:
  enum class Outcome { kApplied, kAccumulated, kSkipped };
  explicit StepResult(Outcome outcome, at::Tensor loss = {}) : outcome_(outcome), loss_(std::move(loss)) {}
  /// Applied or skipped, as `pending` knows.
  explicit StepResult(std::shared_ptr<internal::PendingOutcome> pending)
      : outcome_(Outcome::kApplied), pending_(std::move(pending)) {}

  /// The micro-step does not end an accumulation window: nothing was done. Never waits.
  bool accumulated() const { return outcome_ == Outcome::kAccumulated; }
  /// The parameters were updated.
  bool applied() const { return !accumulated() && !skipped(); }
  /// The update was left out because a gradient was not finite.
  bool skipped() const { return pending_ ? pending_->skipped() : outcome_ == Outcome::kSkipped; }
  /// Whether `applied()` and `skipped()` answer without waiting.
  bool known() const { return !pending_ || pending_->known(); }
  /// For what follows the update on its device without waiting, see PendingOutcome.
  at::Tensor verdict() const { return pending_ ? pending_->verdict() : at::Tensor(); }
  /// After `step(closure)`: what the optimizer made of the closure's losses, the first one for LibTorch's own; with
  /// several processes their mean. Undefined without a closure and on a micro-step that does not synchronise.
  const at::Tensor& loss() const { return loss_; }

 private:
  Outcome outcome_;
  std::shared_ptr<internal::PendingOutcome> pending_;
  at::Tensor loss_;
};

}  // namespace accelerate
