#include "accelerate/step/step.h"

#include "accelerate/step/recorder.h"

namespace accelerate::internal {

void StepBoundary::begin(const std::function<void(TensorVisitor)>& inputs) const {
  const auto recorder = recorder_.lock();
  if (!recorder) return;
  StepKind kind{.opened_by = this, .synchronizes = synchronizes_()};
  inputs([&](const at::Tensor& tensor) { kind.add(tensor); });
  recorder->open_explicitly(std::move(kind));
}

void StepBoundary::end() const {
  if (const auto recorder = recorder_.lock()) recorder->close();
}

void StepBoundary::leave() const {
  if (const auto recorder = recorder_.lock()) recorder->leave();
}

}  // namespace accelerate::internal
