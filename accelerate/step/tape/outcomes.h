#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <string_view>

// The operators by which the host learns whether an update was left out (optim/kernels/operators.h). Of an update that
// an earlier step has launched it may ask at any time, and sometimes knows without asking: that is no part of a step.
// Of one of the same step it reads, as it reads a loss, and which number the update has does not matter.

namespace accelerate::internal {

inline constexpr std::string_view kPublishesOutcome = "accelerate::publish_update_";
inline constexpr std::string_view kAsksForOutcome = "accelerate::await_update";

/// Of the arguments of either, where outcomes are written: a tensor of the host that stays the same.
inline const c10::TensorImpl* outcomes_in(const torch::jit::Stack& stack, size_t arguments) {
  return stack[stack.size() - arguments + 1].toTensor().unsafeGetTensorImpl();
}

inline bool asks_for_outcome(const c10::OperatorHandle& op) { return op.schema().name() == kAsksForOutcome; }

}  // namespace accelerate::internal
