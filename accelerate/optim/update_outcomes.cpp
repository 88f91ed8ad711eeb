#include "accelerate/optim/update_outcomes.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>

#include "accelerate/optim/kernels/operators.h"

namespace accelerate::internal {

class UpdateOutcomes::Outcome final : public PendingOutcome {
 public:
  Outcome(std::shared_ptr<const Memory> memory, int64_t number) : memory_(std::move(memory)), number_(number) {}

  bool known() override {
    if (!skipped_) keep(kernels::peek_update(memory_->outcomes, number_));
    return skipped_.has_value();
  }
  bool skipped() override {
    if (!known()) keep(kernels::await_update(memory_->number, memory_->outcomes, number_));
    return *skipped_;
  }

 private:
  /// The memory is the next update's from then on.
  void keep(std::optional<bool> skipped) {
    skipped_ = skipped;
    if (skipped) memory_.reset();
  }

  std::shared_ptr<const Memory> memory_;
  int64_t number_;
  std::optional<bool> skipped_;
};

UpdateOutcomes::UpdateOutcomes(c10::Device device)
    : memory_(std::make_shared<Memory>(
          Memory{.number = at::zeros({}, at::TensorOptions(at::kLong).device(device)),
                 .outcomes = at::zeros({2}, at::TensorOptions(at::kLong).pinned_memory(!device.is_cpu()))})) {}

std::shared_ptr<PendingOutcome> UpdateOutcomes::publish(const at::Tensor& skip) {
  if (last_) last_->skipped();
  kernels::publish_update(memory_->number, memory_->outcomes, skip);
  last_ = std::make_shared<Outcome>(memory_, ++queued_);
  return last_;
}

}  // namespace accelerate::internal
