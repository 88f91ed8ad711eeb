#include "accelerate/tensor/graph.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <vector>

namespace accelerate::internal {

bool reaches(const at::Tensor& root, const std::unordered_set<const torch::autograd::Node*>& nodes) {
  if (!root.defined() || !root.requires_grad() || nodes.empty()) return false;
  std::vector<const torch::autograd::Node*> open{torch::autograd::impl::gradient_edge(root).function.get()};
  std::unordered_set<const torch::autograd::Node*> seen(open.begin(), open.end());
  while (!open.empty()) {
    const auto* node = open.back();
    open.pop_back();
    if (nodes.contains(node)) return true;
    for (const auto& edge : node->next_edges()) {
      const auto* next = edge.function.get();
      if (next != nullptr && seen.insert(next).second) open.push_back(next);
    }
  }
  return false;
}

}  // namespace accelerate::internal
