// Statistics of gradients against numbers computed element by element.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::GradientStatistics;
using accelerate::GroupGradientStatistics;
using accelerate::UsageError;
using training::expect_error;
using training::Mlp;

at::Tensor with_gradient(const at::Tensor& gradient) {
  at::Tensor parameter = torch::zeros(gradient.sizes(), gradient.options().layout(torch::kStrided));
  parameter.set_requires_grad(true);
  parameter.mutable_grad() = gradient;
  return parameter;
}

GroupGradientStatistics by_hand(const std::vector<at::Tensor>& gradients) {
  GroupGradientStatistics found;
  double squares = 0, sum = 0;
  for (const at::Tensor& gradient : gradients) {
    const at::Tensor flat = gradient.to(torch::kDouble).flatten().contiguous();
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double value = flat[i].item<double>();
      squares += value * value;
      sum += value;
      if (!(std::abs(value) <= found.max_abs) && !std::isnan(found.max_abs)) found.max_abs = std::abs(value);
      found.non_finite += !std::isfinite(value);
      found.zero += value == 0;
      ++found.elements;
    }
  }
  found.norm = std::sqrt(squares);
  found.mean = found.elements == 0 ? 0 : sum / static_cast<double>(found.elements);
  found.with_gradient = static_cast<int64_t>(gradients.size());
  return found;
}

/// Equal, NaN to NaN. 1e-5: sums of squares are taken in the gradients' own precision by the norm kernel at most.
bool close(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || a == b || std::abs(a - b) <= 1e-5 * (1 + std::abs(b));
}

RC_GTEST_PROP(GradientStatistics, AreThoseOfTheElements, ()) {
  const std::vector<at::ScalarType> dtypes{torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf};
  const double bad[] = {0, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                        std::nan("")};
  torch::manual_seed(static_cast<uint64_t>(*rc::gen::inRange(0, 1'000'000)));
  std::vector<torch::optim::OptimizerParamGroup> groups;
  std::vector<GroupGradientStatistics> expected;
  for (int group = *rc::gen::inRange(1, 4); group > 0; --group) {
    std::vector<at::Tensor> parameters, gradients;
    int64_t without = 0;
    for (int i = *rc::gen::inRange(1, 5); i > 0; --i) {
      const auto shape = *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange(0, 4), rc::gen::inRange(0, 5));
      at::Tensor gradient = torch::randn(shape).to(dtypes[static_cast<size_t>(*rc::gen::inRange(0, 4))]);
      if (*rc::gen::arbitrary<bool>() && gradient.dim() == 2) gradient = gradient.t();
      if (gradient.numel() > 0 && *rc::gen::inRange(0, 3) == 0) {
        gradient.flatten()[0].fill_(bad[static_cast<size_t>(*rc::gen::inRange(0, 4))]);
      }
      if (*rc::gen::inRange(0, 5) == 0) {
        parameters.push_back(torch::zeros({2}).set_requires_grad(true));
        ++without;
        continue;
      }
      parameters.push_back(with_gradient(gradient));
      gradients.push_back(gradient);
    }
    groups.emplace_back(parameters);
    expected.push_back(by_hand(gradients));
    expected.back().without_gradient = without;
  }
  torch::optim::SGD sgd(groups, torch::optim::SGDOptions(0.1));
  const auto found = accelerate::internal::gradient_statistics(sgd);
  RC_ASSERT(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    RC_ASSERT(close(found[i].norm, expected[i].norm));
    RC_ASSERT(close(found[i].max_abs, expected[i].max_abs));
    RC_ASSERT(close(found[i].mean, expected[i].mean));
    RC_ASSERT(found[i].elements == expected[i].elements);
    RC_ASSERT(found[i].non_finite == expected[i].non_finite);
    RC_ASSERT(found[i].zero == expected[i].zero);
    RC_ASSERT(found[i].with_gradient == expected[i].with_gradient);
    RC_ASSERT(found[i].without_gradient == expected[i].without_gradient);
  }
}

TEST(GradientStatisticsOf, SparseAndComplexGradients) {
  const at::Tensor indices = torch::tensor({1, 1, 3}, torch::kLong).unsqueeze(0);
  const at::Tensor sparse = torch::sparse_coo_tensor(indices, torch::tensor({1.0, 2.0, 0.0}), {5});
  at::Tensor table = torch::zeros({5}, torch::kDouble).set_requires_grad(true);
  table.mutable_grad() = sparse.to(torch::kDouble);
  at::Tensor waves = torch::zeros({2}, torch::kComplexDouble).set_requires_grad(true);
  waves.mutable_grad() = torch::complex(torch::tensor({3.0, 0.0}), torch::tensor({4.0, 0.0})).to(torch::kComplexDouble);
  const std::vector<torch::optim::OptimizerParamGroup> groups{{{table}}, {{waves}}};
  torch::optim::SGD sgd(groups, torch::optim::SGDOptions(0.1));
  const auto found = accelerate::internal::gradient_statistics(sgd);
  EXPECT_EQ(found[0].norm, 3) << "one element, named twice";
  EXPECT_EQ(found[0].elements, 5);
  EXPECT_EQ(found[0].zero, 4);
  EXPECT_EQ(found[1].norm, 5);
  EXPECT_EQ(found[1].elements, 4);
  EXPECT_EQ(found[1].zero, 2);
}

TEST(GradientStatisticsOf, ATiedParameterCountsOnceAndNothingIsChanged) {
  at::Tensor weight = with_gradient(torch::full({4}, 2.0));
  torch::optim::SGD sgd({weight, weight}, 0.1);
  const at::Tensor before = weight.grad().clone();
  const auto found = accelerate::internal::gradient_statistics(sgd);
  EXPECT_EQ(found[0].with_gradient, 1);
  EXPECT_EQ(found[0].elements, 4);
  EXPECT_EQ(found[0].norm, 4);
  EXPECT_TRUE(torch::equal(weight.grad(), before));
}

TEST(GradientStatisticsOf, LargeSumsInDouble) {
  torch::optim::SGD sgd({with_gradient(torch::full({1 << 20}, 1e-4f)), with_gradient(torch::full({1}, 1e4f))}, 0.1);
  const auto found = accelerate::internal::gradient_statistics(sgd);
  const double small = static_cast<double>(1e-4f);
  EXPECT_NEAR(found[0].mean, (small * (1 << 20) + 1e4) / ((1 << 20) + 1), 1e-12);
  EXPECT_NEAR(found[0].norm, std::sqrt(small * small * (1 << 20) + 1e8), 1e-7);
}

TEST(GradientStatisticsOf, TheLoopSaysWhatItSaw) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  std::vector<torch::optim::OptimizerParamGroup> groups{{net->hidden->parameters()}, {net->out->parameters()}};
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(groups, torch::optim::SGDOptions(0.1)));
  EXPECT_EQ(accelerator.gradient_statistics(optimizer).groups[0].without_gradient, 2) << "before the first backward";
  for (int micro = 0; micro < 2; ++micro) {
    auto window = accelerator.accumulate(model);
    const auto [x, y] = training::make_batch(5, static_cast<uint64_t>(micro));
    accelerator.backward(training::mse(model(x), y));
    const GradientStatistics seen = accelerator.gradient_statistics(optimizer);
    EXPECT_EQ(seen.accumulated, micro == 0);
    ASSERT_EQ(seen.groups.size(), 2u);
    const auto expected = by_hand({net->out->weight.grad(), net->out->bias.grad()});
    EXPECT_NEAR(seen.groups[1].norm, expected.norm, 1e-12);
    EXPECT_NEAR(seen.groups[1].mean, expected.mean, 1e-12);
    EXPECT_EQ(seen.groups[1].max_abs, expected.max_abs);
    EXPECT_EQ(seen.groups[0].elements, 4 * 8 + 8);
    const at::Tensor total = accelerator.clip_grad_norm_(model, 1e9).norm;
    if (!seen.accumulated) {
      EXPECT_NEAR(total.item<double>(), std::hypot(seen.groups[0].norm, seen.groups[1].norm), 1e-12);
    }
    optimizer.step();
    optimizer.zero_grad();
  }
}

TEST(GradientStatisticsOf, TheHostReadsOneTensor) {
  Accelerator accelerator;
  Mlp net(1);
  std::vector<torch::optim::OptimizerParamGroup> groups{{net->hidden->parameters()}, {net->out->parameters()}};
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(groups, torch::optim::SGDOptions(0.1)));
  const auto [x, y] = training::make_batch(5, 1);
  accelerator.backward(training::mse(model(x), y));
  auto profiler = accelerator.profile();
  (void)accelerator.gradient_statistics(optimizer);
  profiler.finish();
  int64_t norms = 0;
  for (const auto& event : profiler.key_averages()) {
    norms += event.key == "aten::linalg_vector_norm" ? event.count : 0;
    EXPECT_NE(event.key, "aten::_local_scalar_dense") << "an item() waits for a GPU; the table at the end is all";
    EXPECT_NE(event.key, "aten::nonzero");
  }
  EXPECT_EQ(norms, 4);
}

TEST(GradientStatisticsOf, AnotherAcceleratorsOptimizerIsRefusedAndSoIsTheEnd) {
  Accelerator accelerator, other;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto mine = optimizer;
  expect_error<UsageError>([&] { (void)other.gradient_statistics(mine); },
                           {"gradient_statistics", "that Accelerator's handle", "this one prepared", "prepared it"});
  accelerator.end_training();
  EXPECT_THROW((void)accelerator.gradient_statistics(mine), UsageError);
}

}  // namespace
