#include "accelerate/step/tape/step_node.h"

#include "accelerate/core/error.h"

namespace accelerate::internal {

torch::autograd::variable_list StepNode::apply(torch::autograd::variable_list&&) {
  throw UsageError(
      {.place = "cuda_graph",
       .what = "Autograd was run past the Accelerator in a step that is captured, or after that step was launched",
       .got = "loss.backward(), torch::autograd::backward, torch::autograd::grad, or a loss of a step "
              "that is over",
       .expected = "accelerator.backward(loss), in every step, before it ends",
       .remedy = "Call that, or leave .cuda_graph out of the options"});
}

}  // namespace accelerate::internal
