#include "accelerate/optim/gradient_statistics.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/optimizer.h>

#include <cmath>
#include <unordered_set>
#include <utility>

namespace accelerate::internal {
namespace {

/// Numbers of one gradient, in the order in which they travel to the host; float64 holds every count exactly.
enum Number { kSquares, kMaxAbs, kSum, kNonFinite, kZero, kNumbers };

/// The elements that a gradient stores, as real numbers.
at::Tensor stored(const at::Tensor& gradient) {
  at::Tensor values = gradient.is_sparse() ? gradient.coalesce().values() : gradient;
  return values.is_complex() ? at::view_as_real(values.resolve_conj()) : values;
}

int64_t elements_of(const at::Tensor& gradient) { return gradient.numel() * (gradient.is_complex() ? 2 : 1); }

/// One row of numbers, on the gradient's device. Sums are float64: those of many elements lose what float32 has.
at::Tensor numbers_of(const at::Tensor& values) {
  if (values.numel() == 0) return at::zeros({kNumbers}, values.options().dtype(at::kDouble));
  const at::Tensor norm = at::linalg_vector_norm(values, 2, std::nullopt, /*keepdim=*/false, at::kDouble);
  return at::stack({norm.square(), values.abs().max().to(at::kDouble), values.sum(at::kDouble),
                    values.isfinite().logical_not_().sum().to(at::kDouble), at::eq(values, 0).sum().to(at::kDouble)});
}

/// The gradients of one group.
struct Group {
  std::vector<at::Tensor> gradients = {};
  GroupGradientStatistics statistics = {};
};

Group group_of(const torch::optim::OptimizerParamGroup& group) {
  Group found;
  std::unordered_set<const void*> seen;
  for (const at::Tensor& parameter : group.params()) {
    if (!seen.insert(parameter.unsafeGetTensorImpl()).second) continue;
    if (!parameter.grad().defined()) {
      ++found.statistics.without_gradient;
      continue;
    }
    found.gradients.push_back(parameter.grad());
    ++found.statistics.with_gradient;
    found.statistics.elements += elements_of(parameter.grad());
  }
  return found;
}

}  // namespace

std::vector<GroupGradientStatistics> gradient_statistics(const torch::optim::Optimizer& optimizer) {
  const at::NoGradGuard no_grad;
  std::vector<Group> groups;
  std::vector<at::Tensor> rows;
  for (const auto& group : optimizer.param_groups()) {
    groups.push_back(group_of(group));
    Group& last = groups.back();
    for (const at::Tensor& gradient : last.gradients) {
      const at::Tensor values = stored(gradient);
      last.statistics.zero += elements_of(gradient) - values.numel();
      const at::Tensor row = numbers_of(values);
      rows.push_back(rows.empty() ? row : row.to(rows.front().device(), /*non_blocking=*/true));
    }
  }
  // The one wait.
  const at::Tensor table = rows.empty() ? at::Tensor() : at::stack(rows).cpu();
  int64_t at = 0;
  std::vector<GroupGradientStatistics> all;
  for (Group& group : groups) {
    GroupGradientStatistics& statistics = group.statistics;
    double squares = 0, sum = 0;
    for (size_t i = 0; i < group.gradients.size(); ++i, ++at) {
      const double* numbers = table.const_data_ptr<double>() + at * kNumbers;
      squares += numbers[kSquares];
      sum += numbers[kSum];
      // A NaN stays.
      if (!(numbers[kMaxAbs] <= statistics.max_abs) && !std::isnan(statistics.max_abs)) {
        statistics.max_abs = numbers[kMaxAbs];
      }
      statistics.non_finite += static_cast<int64_t>(numbers[kNonFinite]);
      statistics.zero += static_cast<int64_t>(numbers[kZero]);
    }
    statistics.norm = std::sqrt(squares);
    if (statistics.elements > 0) statistics.mean = sum / static_cast<double>(statistics.elements);
    all.push_back(statistics);
  }
  return all;
}

}  // namespace accelerate::internal
