#include "accelerate/optim/clip.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

using Gradients = std::vector<at::Tensor>;

/// The gradients that exist, each once: `module.parameters()` lists a tied parameter under each of its names.
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

/// The for-each kernels take one device and dtype a call; there is almost always one kind.
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

void check_positive(const char* place, const char* field, double value) {
  if (value > 0) return;
  throw UsageError({.place = place,
                    .what = std::string("The option ") + field + " is not positive",
                    .got = std::string(field) + " = " + std::to_string(value),
                    .expected = "more than 0",
                    .remedy = std::string("Call it with {") + field + " = 1.0}"});
}

}  // namespace

at::Tensor clip_grad_norm(const std::vector<at::Tensor>& parameters, ClipNormOptions options) {
  check_positive("clip_grad_norm_", ".max_norm", options.max_norm);
  check_positive("clip_grad_norm_", ".norm_type", options.norm_type);
  const at::NoGradGuard no_grad;
  auto kinds = gradients_by_kind(parameters);
  Gradients norms;
  for (const Gradients& gradients : kinds) {
    for (at::Tensor& norm : at::_foreach_norm(gradients, options.norm_type)) norms.push_back(std::move(norm));
  }
  if (norms.empty()) return at::zeros({});
  for (at::Tensor& norm : norms) {
    if (norm.device() != norms.front().device()) norm = norm.to(norms.front().device());
  }
  at::Tensor total = at::linalg_vector_norm(at::stack(norms), options.norm_type);
  const at::Tensor factor = (options.max_norm / (total + 1e-6)).clamp_max(1.0);
  // A pass that changes no bit, where the host can tell for nothing. A NaN is not 1.
  if (factor.is_cpu() && factor.item<double>() == 1) return total;
  for (Gradients& gradients : kinds) at::_foreach_mul_(gradients, factor.to(gradients.front().device()));
  return total;
}

void clip_grad_value(const std::vector<at::Tensor>& parameters, ClipValueOptions options) {
  check_positive("clip_grad_value_", ".clip_value", options.clip_value);
  const at::NoGradGuard no_grad;
  auto kinds = gradients_by_kind(parameters);
  for (Gradients& gradients : kinds) {
    at::_foreach_clamp_min_(gradients, -options.clip_value);
    at::_foreach_clamp_max_(gradients, options.clip_value);
  }
}

}  // namespace accelerate::internal
