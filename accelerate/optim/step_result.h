#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace accelerate {

/// What `Optimizer::step()` did; exactly one of the three is true. A handle: asking may wait for the device, keeping it
/// does not.
class StepResult {
 public:
  enum class Outcome { kApplied, kAccumulated, kSkipped };
  explicit StepResult(Outcome outcome, at::Tensor loss = {}) : outcome_(outcome), loss_(std::move(loss)) {}

  /// The micro-step does not end an accumulation window: nothing was done. Never waits.
  bool accumulated() const { return outcome_ == Outcome::kAccumulated; }
  /// The parameters were updated.
  bool applied() const { return outcome_ == Outcome::kApplied; }
  /// The update was left out because a gradient was not finite.
  bool skipped() const { return outcome_ == Outcome::kSkipped; }
  /// After `step(closure)`: what the optimizer made of the closure's losses, the first one for LibTorch's own; with
  /// several processes their mean. Undefined without a closure and on a micro-step that does not synchronise.
  const at::Tensor& loss() const { return loss_; }

 private:
  Outcome outcome_;
  at::Tensor loss_;
};

}  // namespace accelerate
