#pragma once

namespace accelerate {

/// What `Optimizer::step()` did; exactly one of the three is true. A handle: asking may wait for the device, keeping it
/// does not.
class StepResult {
 public:
  enum class Outcome { kApplied, kAccumulated, kSkipped };
  explicit StepResult(Outcome outcome) : outcome_(outcome) {}

  /// The micro-step does not end an accumulation window: nothing was done. Never waits.
  bool accumulated() const { return outcome_ == Outcome::kAccumulated; }
  /// The parameters were updated.
  bool applied() const { return outcome_ == Outcome::kApplied; }
  /// The update was left out because a gradient was not finite.
  bool skipped() const { return outcome_ == Outcome::kSkipped; }

 private:
  Outcome outcome_;
};

}  // namespace accelerate
