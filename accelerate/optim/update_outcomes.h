#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "accelerate/optim/step_result.h"

namespace accelerate::internal {

/// The outcomes of one optimizer's updates, which its device writes into memory of the host: neither is anything
/// copied, nor does the host wait before somebody asks.
class UpdateOutcomes {
 public:
  explicit UpdateOutcomes(c10::Device device);
  /// Queues behind an update that `skip` (float32, [1]; not 0 for skipped) is its outcome. There is room for one: that
  /// of the update before is waited for.
  std::shared_ptr<PendingOutcome> publish(const at::Tensor& skip);

 private:
  struct Memory {
    at::Tensor number;    ///< of the last update that the device has done; on the device
    at::Tensor outcomes;  ///< that number and whether it was skipped; on the host
    at::Tensor verdict;   ///< whether it was skipped; on the device
    int64_t queued = 0;   ///< updates
  };
  class Outcome;
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<PendingOutcome> last_;
};

}  // namespace accelerate::internal
