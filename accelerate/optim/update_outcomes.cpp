#include "accelerate/optim/update_outcomes.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>

#include "accelerate/optim/kernels/operators.h"
#include "accelerate/tensor/intercept.h"

namespace accelerate::internal {

class UpdateOutcomes::Outcome final : public PendingOutcome {
 public:
  explicit Outcome(const std::shared_ptr<const Memory>& memory)
      : memory_(memory), queue_(memory), number_(memory->queued) {}

  /// Whoever observes this thread must not see another step where the device happens to be fast.
  bool known() override {
    if (!skipped_ && !is_observed()) keep(kernels::peek_update(memory_->outcomes, number_));
    return skipped_.has_value();
  }
  bool skipped() override {
    if (!known()) keep(kernels::await_update(memory_->number, memory_->outcomes, number_));
    return *skipped_;
  }
  at::Tensor verdict() const override {
    const auto queue = queue_.lock();
    return queue && queue->queued == number_ ? queue->verdict : at::Tensor();
  }

 private:
  /// The memory is the next update's from then on.
  void keep(std::optional<bool> skipped) {
    skipped_ = skipped;
    if (skipped) memory_.reset();
  }

  std::shared_ptr<const Memory> memory_;
  std::weak_ptr<const Memory> queue_;
  int64_t number_;
  std::optional<bool> skipped_;
};

UpdateOutcomes::UpdateOutcomes(c10::Device device)
    : memory_(std::make_shared<Memory>(
          Memory{.number = at::zeros({}, at::TensorOptions(at::kLong).device(device)),
                 .outcomes = at::zeros({2}, at::TensorOptions(at::kLong).pinned_memory(!device.is_cpu())),
                 .verdict = at::zeros({1}, at::TensorOptions(at::kFloat).device(device))})) {}

std::shared_ptr<PendingOutcome> UpdateOutcomes::publish(const at::Tensor& skip) {
  if (last_) last_->skipped();
  kernels::publish_update(memory_->number, memory_->outcomes, skip, memory_->verdict);
  ++memory_->queued;
  last_ = std::make_shared<Outcome>(memory_);
  return last_;
}

}  // namespace accelerate::internal
