#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

// What the tests of data-parallel training share. Nothing here draws random numbers: the ranks are threads of one
// process, which has one generator.
namespace ddp {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::Ddp;
using accelerate::testing::Rank;

/// Numbers between -1 and 1 that depend on `seed` alone.
inline at::Tensor numbers(at::IntArrayRef shape, double seed, at::ScalarType dtype = at::kDouble) {
  const int64_t count = c10::multiply_integers(shape);
  return torch::sin(torch::arange(count, at::kDouble) * 1.7 + seed * 0.37 + 0.1).view(shape).to(dtype);
}

/// Gives every parameter such numbers.
inline void fill(torch::nn::Module& module, double seed, at::ScalarType dtype = at::kDouble) {
  const torch::NoGradGuard no_grad;
  module.to(dtype);
  for (at::Tensor& parameter : module.parameters()) parameter.copy_(numbers(parameter.sizes(), seed++, dtype) * 0.5);
}

/// Two inputs, two outputs and a tanh between.
struct MlpImpl : torch::nn::Module {
  explicit MlpImpl(double seed = 1, at::ScalarType dtype = at::kDouble) {
    hidden = register_module("hidden", torch::nn::Linear(3, 5));
    out = register_module("out", torch::nn::Linear(5, 2));
    fill(*this, seed, dtype);
  }
  at::Tensor forward(const at::Tensor& x) { return out(torch::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr}, out{nullptr};
};
TORCH_MODULE(Mlp);

/// A body and two heads, of which a forward uses the first, the second or both.
struct TwoHeadsImpl : torch::nn::Module {
  explicit TwoHeadsImpl(double seed = 1) {
    body = register_module("body", torch::nn::Linear(3, 4));
    first = register_module("first", torch::nn::Linear(4, 2));
    second = register_module("second", torch::nn::Linear(4, 2));
    fill(*this, seed);
  }
  at::Tensor forward(const at::Tensor& x, bool use_first, bool use_second) {
    const at::Tensor h = torch::tanh(body(x));
    at::Tensor y = torch::zeros({x.size(0), 2}, x.options());
    if (use_first) y = y + first(h);
    if (use_second) y = y + second(h);
    return y;
  }
  torch::nn::Linear body{nullptr}, first{nullptr}, second{nullptr};
};
TORCH_MODULE(TwoHeads);

/// The batch of one rank in one micro-step.
inline at::Tensor inputs(int64_t rank, int64_t step, int64_t rows = 4, int64_t columns = 3) {
  return numbers({rows, columns}, 100.0 + 10.0 * static_cast<double>(step) + static_cast<double>(rank));
}
/// The batches of all ranks in one micro-step.
inline at::Tensor all_inputs(int64_t ranks, int64_t step, int64_t rows = 4, int64_t columns = 3) {
  std::vector<at::Tensor> batches;
  for (int64_t rank = 0; rank < ranks; ++rank) batches.push_back(inputs(rank, step, rows, columns));
  return torch::cat(batches);
}

inline at::Tensor mean_square(const at::Tensor& output) { return output.pow(2).mean(); }

using Tensors = std::vector<at::Tensor>;

inline Tensors gradients(const torch::nn::Module& module) {
  Tensors all;
  for (const at::Tensor& parameter : module.parameters()) {
    all.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::Tensor());
  }
  return all;
}
inline Tensors values(const torch::nn::Module& module) {
  Tensors all;
  for (const at::Tensor& parameter : module.parameters()) all.push_back(parameter.detach().clone());
  return all;
}

/// The largest difference between two lists of which the same entries are defined.
inline double distance(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return std::numeric_limits<double>::infinity();
    if (!a[i].defined() || a[i].numel() == 0) continue;
    const double difference = (a[i] - b[i]).abs().max().item<double>();
    largest = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(largest, difference);
  }
  return largest;
}

/// Sums of up to four float64 terms of size one, in another order.
constexpr double kRounding = 1e-12;

inline bool equal(const Tensors& a, const Tensors& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined() || (a[i].defined() && !torch::equal(a[i], b[i]))) return false;
  }
  return true;
}

/// `action`, which other ranks take part in, is called once; the result throws what it threw.
inline std::function<void()> once(const std::function<void()>& action) {
  try {
    action();
  } catch (...) {
    return [error = std::current_exception()] { std::rethrow_exception(error); };
  }
  return [] {};
}

/// What each rank's `body` returned, in rank order.
template <class Result>
std::vector<Result> on_ranks(int64_t size, const std::function<Result(const Rank&)>& body,
                             accelerate::testing::RunRanksOptions options = {}) {
  std::vector<Result> results(static_cast<size_t>(size));
  accelerate::testing::run_ranks(
      size, [&](const Rank& rank) { results[static_cast<size_t>(rank.rank())] = body(rank); }, options);
  return results;
}
inline void on_ranks(int64_t size, const std::function<void(const Rank&)>& body) {
  accelerate::testing::run_ranks(size, body);
}

}  // namespace ddp
