#include "accelerate/optim/clip.h"

#include <ATen/ATen.h>
#include <ATen/ScalarOps.h>

#include <cmath>
#include <sstream>
#include <string>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/gradients.h"
#include "accelerate/optim/kernels/operators.h"

namespace accelerate::internal {
namespace {

void check_positive(const char* place, const char* field, double value) {
  if (value > 0) return;
  throw UsageError({.place = place,
                    .what = std::string("The option ") + field + " is not positive",
                    .got = std::string(field) + " = " + std::to_string(value),
                    .expected = "more than 0",
                    .remedy = std::string("Call it with {") + field + " = 1.0}"});
}

/// "3 of 12", or the name that `name` gives.
std::string first_non_finite(const std::vector<at::Tensor>& parameters, const ParameterName& name) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& gradient = parameters[i].grad();
    if (!gradient.defined() || at::isfinite(gradient).all().item<bool>()) continue;
    return name ? "\"" + name(i) + "\"" : std::to_string(i) + " of " + std::to_string(parameters.size());
  }
  return {};
}

void require_finite(const at::Tensor& total, const std::vector<at::Tensor>& parameters, const ClipNormOptions& options,
                    const ParameterName& name) {
  const double norm = total.item<double>();
  if (std::isfinite(norm)) return;
  std::ostringstream got;
  got << "a norm of " << norm;
  const std::string culprit = first_non_finite(parameters, name);
  got << (culprit.empty() ? "; the gradients themselves are finite" : "; the first such gradient is of parameter ")
      << culprit;
  throw UsageError({.place = "clip_grad_norm_",
                    .what = "The norm of the gradients is not finite",
                    .got = got.str(),
                    .expected = "a finite norm of order " + std::to_string(options.norm_type) +
                                ", as .error_if_nonfinite asks for; nothing was scaled",
                    .remedy = "Look for what made the loss overflow; go on with optimizer.zero_grad(), or leave "
                              ".error_if_nonfinite out to clip all the same"});
}

bool is_short(const at::Tensor& gradient) {
  return gradient.scalar_type() == at::kHalf || gradient.scalar_type() == at::kBFloat16;
}

/// Whether ours compute what LibTorch's would in fewer kernels, and write nothing where nothing changes.
bool fits_operators(const Gradients& gradients) {
  const at::Tensor& first = gradients.front();
  return first.is_cuda() && (first.scalar_type() == at::kFloat || is_short(first)) && are_dense(gradients);
}

std::vector<at::Tensor> norms_of(const Gradients& gradients, double order) {
  const auto dtype = is_short(gradients.front()) ? std::optional(at::kFloat) : std::nullopt;
  return at::_foreach_norm(gradients, order, dtype);
}

}  // namespace

at::Tensor clip_factor(const at::Tensor& norm, double max_norm) {
  // Not with `/`, which fills a tensor with the number first.
  return at::native::wrapped_scalar_tensor(max_norm).div(norm + 1e-6).clamp_max(1.0);
}

at::Tensor clip_grad_norm(const std::vector<at::Tensor>& parameters, ClipNormOptions options,
                          const ParameterName& name) {
  check_positive("clip_grad_norm_", ".max_norm", options.max_norm);
  check_positive("clip_grad_norm_", ".norm_type", options.norm_type);
  const at::NoGradGuard no_grad;
  auto kinds = gradients_by_kind(parameters);
  if (kinds.size() == 1 && options.norm_type == 2 && fits_operators(kinds.front())) {
    const at::Tensor total = kernels::gradient_norm(kinds.front()).norm;
    if (options.error_if_nonfinite) require_finite(total, parameters, options, name);
    kernels::scale(kinds.front(), clip_factor(total, options.max_norm));
    return total;
  }
  Gradients norms;
  for (const Gradients& gradients : kinds) {
    for (at::Tensor& norm : norms_of(gradients, options.norm_type)) norms.push_back(std::move(norm));
  }
  if (norms.empty()) return at::zeros({});
  for (at::Tensor& norm : norms) {
    if (norm.device() != norms.front().device()) norm = norm.to(norms.front().device());
  }
  at::Tensor total = at::linalg_vector_norm(at::stack(norms), options.norm_type);
  if (options.error_if_nonfinite) require_finite(total, parameters, options, name);
  const at::Tensor factor = clip_factor(total, options.max_norm);
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
