#include "accelerate/optim/gradients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

namespace accelerate::internal {

bool all_differ(std::vector<const void*>& addresses) {
  std::sort(addresses.begin(), addresses.end());
  return std::adjacent_find(addresses.begin(), addresses.end()) == addresses.end();
}

Gradients gradients_of(const std::vector<at::Tensor>& parameters) {
  Gradients gradients;
  std::vector<const void*> addresses;
  gradients.reserve(parameters.size());
  addresses.reserve(parameters.size());
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (!gradient.defined()) continue;
    gradients.push_back(gradient);
    addresses.push_back(gradient.unsafeGetTensorImpl());
  }
  if (all_differ(addresses)) return gradients;
  std::unordered_set<const void*> seen;
  std::erase_if(gradients,
                [&](const at::Tensor& gradient) { return !seen.insert(gradient.unsafeGetTensorImpl()).second; });
  return gradients;
}

std::vector<Gradients> gradients_by_kind(const std::vector<at::Tensor>& parameters) {
  std::vector<Gradients> kinds;
  Gradients all = gradients_of(parameters);
  const auto is_first_kind = [&](const at::Tensor& gradient) {
    return gradient.device() == all.front().device() && gradient.scalar_type() == all.front().scalar_type();
  };
  if (!all.empty() && std::all_of(all.begin(), all.end(), is_first_kind)) {
    kinds.push_back(std::move(all));
    return kinds;
  }
  for (const at::Tensor& gradient : all) {
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
