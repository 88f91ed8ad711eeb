#pragma once

#include <torch/csrc/autograd/function.h>

namespace accelerate::internal {

/// Where the graph of a replayed step's tensors begins: it has no operators, and reaches the parameters that the step's
/// losses reach. `accelerator.backward` does not walk it; who does is told.
struct StepNode final : torch::autograd::Node {
  explicit StepNode(torch::autograd::edge_list parameters) : Node(std::move(parameters)) {}
  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override;
  std::string name() const override { return "accelerate::StepNode"; }
};

}  // namespace accelerate::internal
