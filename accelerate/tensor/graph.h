#pragma once

#include <ATen/core/Tensor.h>

#include <unordered_set>

namespace torch::autograd {
struct Node;
}

namespace accelerate::internal {

/// Whether autograd from `root` comes by one of `nodes`. Visits nodes once and stops at the first of them.
bool reaches(const at::Tensor& root, const std::unordered_set<const torch::autograd::Node*>& nodes);

}  // namespace accelerate::internal
