#include "accelerate/optim/gradients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_set>

namespace accelerate::internal {

Gradients gradients_of(const std::vector<at::Tensor>& parameters) {
  Gradients gradients;
  gradients.reserve(parameters.size());
  std::unordered_set<const void*> seen;
  seen.reserve(parameters.size());
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (gradient.defined() && seen.insert(gradient.unsafeGetTensorImpl()).second) gradients.push_back(gradient);
  }
  return gradients;
}

std::vector<Gradients> gradients_by_kind(const std::vector<at::Tensor>& parameters) {
  std::vector<Gradients> kinds;
  for (const at::Tensor& gradient : gradients_of(parameters)) {
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const Gradients& other) {
      return other.front().device() == gradient.device() && other.front().scalar_type() == gradient.scalar_type();
    });
    if (kind == kinds.end()) kind = kinds.emplace(kinds.end());
    kind->push_back(gradient);
  }
  return kinds;
}

bool are_dense(const Gradients& gradients) {
  return std::all_of(gradients.begin(), gradients.end(), [](const at::Tensor& gradient) {
    return gradient.layout() == at::kStrided && gradient.is_non_overlapping_and_dense();
  });
}

void scale(std::vector<Gradients>& kinds, const at::Tensor& factor) {
  const at::NoGradGuard no_grad;
  for (Gradients& gradients : kinds) {
    const at::Tensor& first = gradients.front();
    at::_foreach_mul_(gradients, factor.to(first.options().layout(at::kStrided)));
  }
}

}  // namespace accelerate::internal
