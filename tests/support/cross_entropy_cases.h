#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "accelerate/nn/cross_entropy.h"

/// The fused cross entropy beside LibTorch's in float64, over the same logits on the same device.
namespace cross_entropy_cases {

using Options = torch::nn::functional::CrossEntropyFuncOptions;

/// How logits lie in memory.
enum class Layout {
  kDense,
  kShifted,     ///< rows begin in the middle of 16 bytes
  kPadded,      ///< a part of longer rows
  kEveryOther,  ///< rows with others between
  kTransposed,  ///< classes are not side by side
  kSequences,   ///< (2, classes, n / 2), a view of (2, n / 2, classes)
};
constexpr int kLayouts = static_cast<int>(Layout::kSequences) + 1;

struct Case {
  int64_t rows = 1, classes = 1;
  at::ScalarType dtype = at::kBFloat16;
  int reduction = at::Reduction::Mean;
  double smoothing = 0;
  double spread = 3, offset = 0;   ///< of the logits
  double ignored = 0, masked = 0;  ///< the part of rows, and of logits that are -inf
  int64_t ignore_index = -100;
  Layout layout = Layout::kDense;
  uint64_t seed = 1;
};

inline std::ostream& operator<<(std::ostream& stream, const Case& one) {
  return stream << one.rows << " x " << one.classes << " " << one.dtype << " reduction " << one.reduction
                << " smoothing " << one.smoothing << " spread " << one.spread << " offset " << one.offset << " ignored "
                << one.ignored << " as " << one.ignore_index << " masked " << one.masked << " layout "
                << static_cast<int>(one.layout) << " seed " << one.seed;
}

inline Options options_of(const Case& one) {
  Options options;
  options.ignore_index(one.ignore_index).label_smoothing(one.smoothing);
  if (one.reduction == at::Reduction::None) options.reduction(torch::kNone);
  if (one.reduction == at::Reduction::Sum) options.reduction(torch::kSum);
  return options;
}

struct Batch {
  at::Tensor logits, targets;
};

inline at::Tensor laid_out(const at::Tensor& rows, Layout layout) {
  const int64_t n = rows.size(0), classes = rows.size(1);
  const auto options = rows.options();
  switch (layout) {
    case Layout::kDense:
      return rows.contiguous();
    case Layout::kShifted:
      return at::empty({n * classes + 3}, options).narrow(0, 3, n * classes).view({n, classes}).copy_(rows);
    case Layout::kPadded:
      return at::empty({n, classes + 5}, options).narrow(1, 2, classes).copy_(rows);
    case Layout::kEveryOther:
      return at::empty({n, 2, classes}, options).select(1, 1).copy_(rows);
    case Layout::kTransposed:
      return rows.t().contiguous().t();
    case Layout::kSequences:
      return rows.contiguous().view({2, n / 2, classes}).transpose(1, 2);
  }
  return rows;
}

inline Batch batch_of(const Case& one, c10::Device device) {
  torch::manual_seed(one.seed);
  at::Tensor logits = at::randn({one.rows, one.classes}, at::TensorOptions(device)).mul_(one.spread).add_(one.offset);
  at::Tensor targets = at::randint(one.classes, {one.rows}, at::TensorOptions(at::kLong).device(device));
  if (one.masked > 0) {
    // The first class is never masked, and so is no row as a whole.
    at::Tensor mask = at::rand_like(logits).lt(one.masked);
    mask.select(1, 0).fill_(false);
    logits.masked_fill_(mask, -std::numeric_limits<double>::infinity());
    if (one.smoothing == 0) logits.scatter_(1, targets.unsqueeze(1), 1.0);
  }
  if (one.ignored > 0) {
    targets.masked_fill_(at::rand({one.rows}, at::TensorOptions(device)).lt(one.ignored), one.ignore_index);
  }
  const at::Tensor placed = laid_out(logits.to(one.dtype), one.layout);
  return {placed, one.layout == Layout::kSequences ? targets.view({2, one.rows / 2}) : targets};
}

struct Outcome {
  at::Tensor loss, gradient;
};

/// Loss, and gradient for a random gradient of the loss.
template <class Function>
Outcome outcome_of(const Function& loss_of, const at::Tensor& logits, const at::Tensor& weights) {
  const at::Tensor leaf = logits.detach().requires_grad_();
  const at::Tensor loss = loss_of(leaf);
  const auto gradients = torch::autograd::grad({loss}, {leaf}, {weights.to(loss.scalar_type())});
  return {loss.detach(), gradients[0]};
}

/// NaN equals NaN, and infinities themselves.
inline ::testing::AssertionResult near(const at::Tensor& got, const at::Tensor& expected, double relative,
                                       double absolute) {
  if (got.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure() << "sizes " << got.sizes() << ", expected " << expected.sizes();
  }
  const at::Tensor a = got.to(at::kDouble), b = expected.to(at::kDouble);
  if (at::allclose(a, b, relative, absolute, /*equal_nan=*/true)) return ::testing::AssertionSuccess();
  const at::Tensor wrong = at::isclose(a, b, relative, absolute, /*equal_nan=*/true).logical_not();
  const at::Tensor places = wrong.nonzero();
  auto failure = ::testing::AssertionFailure() << places.size(0) << " of " << a.numel() << " are wrong, first at";
  for (int64_t d = 0; d < places.size(1); ++d) failure << " " << places[0][d].item<int64_t>();
  return failure << ": got " << a.masked_select(wrong)[0].item<double>() << ", expected "
                 << b.masked_select(wrong)[0].item<double>();
}

/// Half a unit in the last place of a number that was not rounded yet, and a little more for what float32 has rounded
/// before.
inline double rounding(at::ScalarType dtype) {
  if (dtype == at::kBFloat16) return 1.02 / 256;
  if (dtype == at::kHalf) return 1.02 / 2048;
  return 2e-6;
}

/// float32 keeps 1e-7 of a number; an exponential of a distance of 100 has 100 times that. Below 6e-8 float16 has 0.
inline void expect_as_libtorch(const Case& one, c10::Device device) {
  std::ostringstream description;
  description << one;
  SCOPED_TRACE(description.str());
  const Batch batch = batch_of(one, device);
  const Options options = options_of(one);
  const auto sizes = one.reduction == at::Reduction::None ? batch.targets.sizes() : at::IntArrayRef();
  const at::Tensor weights = at::randn(sizes, at::TensorOptions(device)) * 5;
  const Outcome ours = outcome_of(
      [&](const at::Tensor& x) { return accelerate::nn::functional::cross_entropy(x, batch.targets, options); },
      batch.logits, weights);
  const Outcome theirs =
      outcome_of([&](const at::Tensor& x) { return torch::nn::functional::cross_entropy(x, batch.targets, options); },
                 batch.logits.to(at::kDouble), weights);
  EXPECT_EQ(ours.loss.scalar_type(), at::kFloat);
  EXPECT_EQ(ours.gradient.scalar_type(), one.dtype);
  EXPECT_TRUE(near(ours.loss, theirs.loss, 2e-6, 2e-5)) << "loss";
  const double largest = weights.numel() == 0 ? 0 : weights.abs().max().item<double>();
  const double kept = one.reduction == at::Reduction::Mean ? std::max<double>(1, static_cast<double>(one.rows)) : 1;
  const double absolute = largest * 2e-6 / kept + (one.dtype == at::kHalf ? 6e-8 : 1e-37);
  EXPECT_TRUE(near(ours.gradient, theirs.gradient, rounding(one.dtype), absolute)) << "gradient";
}

}  // namespace cross_entropy_cases
