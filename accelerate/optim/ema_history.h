#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/optim/kernels/element.h"
#include "accelerate/optim/step_result.h"

namespace accelerate::internal {

/// One call of `Ema::update` after a step.
struct EmaEntry {
  std::optional<StepResult> result;    ///< until it is known
  std::optional<int64_t> number = {};  ///< which update it was, from 1; 0: none, the step was skipped
};

/// Which updates averages had, as the host knows: the device counts for itself.
class EmaHistory {
 public:
  explicit EmaHistory(const kernels::EmaDecay& decay) : decay_(decay) {}

  /// Waits for nothing.
  std::shared_ptr<EmaEntry> add(const StepResult& result);
  bool knows(const EmaEntry& entry);
  /// These wait until everything is known.
  int64_t number_of(const EmaEntry& entry);
  double decay_of(const EmaEntry& entry);
  int64_t count();
  void set_count(int64_t count);

  const kernels::EmaDecay& decay() const { return decay_; }

 private:
  enum class Waiting { kAllowed, kForbidden };
  void follow(Waiting waiting);

  kernels::EmaDecay decay_;
  int64_t count_ = 0;  ///< before the open ones
  std::vector<std::shared_ptr<EmaEntry>> open_;
};

}  // namespace accelerate::internal
