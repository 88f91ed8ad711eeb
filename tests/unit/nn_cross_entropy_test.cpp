// The fused cross entropy: LibTorch's numbers in float32 from 16-bit logits, in every shape and layout.
#include "accelerate/nn/cross_entropy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <sstream>

#include "accelerate/accelerate.h"
#include "tests/support/cross_entropy_cases.h"
#include "tests/support/throws_error.h"

namespace {

using namespace cross_entropy_cases;
using accelerate::DataError;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using testing::HasSubstr;
namespace F = accelerate::nn::functional;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

RC_GTEST_PROP(CrossEntropy, IsThatOfLibTorchInFloat64, ()) {
  Case one{.rows = 2 * *rc::gen::inRange<int64_t>(1, 9),
           .classes = *rc::gen::inRange<int64_t>(1, 70),
           .dtype = *rc::gen::element(at::kFloat, at::kBFloat16, at::kHalf),
           .reduction = *rc::gen::inRange(0, 3),
           .smoothing = *rc::gen::element(0.0, 0.1, 0.7, 1.0),
           .spread = *rc::gen::element(0.1, 3.0, 20.0),
           .offset = *rc::gen::element(0.0, 300.0, -300.0),
           .ignored = *rc::gen::element(0.0, 0.3),
           .masked = *rc::gen::element(0.0, 0.4),
           .ignore_index = *rc::gen::element<int64_t>(-100, 0, 1'000'000),
           .layout = static_cast<Layout>(*rc::gen::inRange(0, kLayouts)),
           .seed = *rc::gen::inRange<uint64_t>(0, 1000)};
  if (one.smoothing > 0) one.masked = 0;  // of which the loss is infinite
  expect_as_libtorch(one, at::kCPU);
  RC_ASSERT(!::testing::Test::HasFailure());
}

// More than what is converted to float32 at a time.
TEST(CrossEntropy, OfVocabularies) {
  expect_as_libtorch({.rows = 40, .classes = 50'257, .ignored = 0.2}, at::kCPU);
  expect_as_libtorch({.rows = 3, .classes = 300'000, .smoothing = 0.1}, at::kCPU);
  expect_as_libtorch({.rows = 3, .classes = 50'257, .dtype = at::kFloat, .smoothing = 0.2, .offset = 3000}, at::kCPU);
}

TEST(CrossEntropy, OfNoRows) {
  for (const int reduction : {0, 1, 2}) expect_as_libtorch({.rows = 0, .classes = 7, .reduction = reduction}, at::kCPU);
}

TEST(CrossEntropy, OfIgnoredRowsAlone) {
  const at::Tensor x = at::randn({3, 5}).to(at::kBFloat16).requires_grad_();
  const at::Tensor y = at::full({3}, -100, at::kLong);
  const at::Tensor mean = F::cross_entropy(x, y);
  EXPECT_TRUE(std::isnan(mean.item<double>())) << "a mean over nothing";
  EXPECT_EQ(torch::autograd::grad({mean}, {x})[0].abs().sum().item<double>(), 0);
  EXPECT_EQ(F::cross_entropy(x, y, Options().reduction(torch::kSum)).item<double>(), 0);
  EXPECT_EQ(F::cross_entropy(x, y, Options().reduction(torch::kNone).label_smoothing(0.1)).abs().sum().item<double>(),
            0);
}

// Where LibTorch multiplies what is not a number by 0.
TEST(CrossEntropy, AnIgnoredRowMayHoldAnything) {
  const at::Tensor x = at::tensor({1.F, NAN, INFINITY, 0.5F, 0.25F, 0.F}).view({2, 3}).requires_grad_();
  const at::Tensor loss = F::cross_entropy(x, at::tensor({-100, 1}, at::kLong));
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  const at::Tensor gradient = torch::autograd::grad({loss}, {x})[0];
  EXPECT_EQ(gradient[0].abs().sum().item<double>(), 0);
  EXPECT_TRUE(gradient.isfinite().all().item<bool>());
}

TEST(CrossEntropy, InfinitiesAreThoseOfLibTorch) {
  const std::vector<std::vector<double>> rows{
      {-kInfinity, 1, 2},  {1, -kInfinity, 2}, {-kInfinity, -kInfinity, -kInfinity}, {kInfinity, 1, 2},
      {1e38, -1e38, 1e38}, {NAN, 1, 2},        {-kInfinity, -kInfinity, 4}};
  for (const double smoothing : {0.0, 0.2}) {
    for (const auto& row : rows) {
      for (const int64_t target : {0, 1, 2}) {
        SCOPED_TRACE(testing::PrintToString(row) + " target " + std::to_string(target));
        const at::Tensor x = at::tensor(row, at::kDouble).view({1, 3}).to(at::kFloat);
        const at::Tensor y = at::tensor({target}, at::kLong);
        const auto options = Options().label_smoothing(smoothing);
        const Outcome ours =
            outcome_of([&](const at::Tensor& t) { return F::cross_entropy(t, y, options); }, x, at::ones({}));
        const Outcome theirs = outcome_of(
            [&](const at::Tensor& t) { return torch::nn::functional::cross_entropy(t, y, options); }, x, at::ones({}));
        EXPECT_TRUE(near(ours.loss, theirs.loss, 1e-6, 0));
        EXPECT_TRUE(near(ours.gradient, theirs.gradient, 1e-6, 1e-7));
      }
    }
  }
}

// Central differences of the loss in float32, which is smooth enough for steps of 1/8.
TEST(CrossEntropy, GradientIsTheSlopeOfTheLoss) {
  torch::manual_seed(3);
  const at::Tensor x = at::randn({4, 6});
  const at::Tensor y = at::tensor({1, 5, -100, 0}, at::kLong);
  const auto options = Options().label_smoothing(0.15);
  const auto loss = [&](const at::Tensor& t) { return F::cross_entropy(t, y, options); };
  const at::Tensor gradient = outcome_of(loss, x, at::ones({})).gradient;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const auto at = [&](double step) {
      const at::Tensor moved = x.clone();
      moved.view(-1)[i] += step;
      return loss(moved).item<double>();
    };
    // Of fourth order in the step.
    const double slope = (8 * (at(0.125) - at(-0.125)) - (at(0.25) - at(-0.25))) / 1.5;
    EXPECT_NEAR(gradient.view(-1)[i].item<double>(), slope, 1e-5) << i;
  }
}

TEST(CrossEntropy, WhatIsNotFusedIsLibTorchsOverFloat32) {
  const at::Tensor x = at::randn({6, 4}).to(at::kBFloat16);
  const at::Tensor y = at::tensor({0, 1, 2, 3, 1, -100}, at::kLong);
  const auto expect_same = [&](const at::Tensor& input, const at::Tensor& target, const Options& options,
                               const Options& wide) {
    const at::Tensor ours = F::cross_entropy(input, target, options);
    const auto as = [](const at::Tensor& t) {
      return t.is_floating_point() && t.scalar_type() != at::kDouble ? t.to(at::kFloat) : t;
    };
    EXPECT_TRUE(at::equal(ours, torch::nn::functional::cross_entropy(as(input), as(target), wide)));
  };
  const at::Tensor weight = at::tensor({1.F, 2.F, 0.5F, 1.5F});
  expect_same(x, y, Options().weight(weight), Options().weight(weight));
  // As a module in a converted model has it.
  expect_same(x, y, Options().weight(weight.to(at::kBFloat16)).label_smoothing(0.1),
              Options().weight(weight).label_smoothing(0.1));
  expect_same(x, at::rand({6, 4}).to(at::kBFloat16), {}, {});
  expect_same(x.to(at::kDouble), y, {}, {});
  expect_same(at::randn({2, 4, 3}).to(at::kHalf), y.view({2, 3}), {}, {});
  EXPECT_EQ(F::cross_entropy(x.to(at::kDouble), y).scalar_type(), at::kDouble);
}

TEST(CrossEntropy, OfOneRowWithoutABatch) {
  const at::Tensor x = at::randn({5}), y = at::tensor(3, at::kLong);
  for (const auto& options : {Options(), Options().reduction(torch::kNone)}) {
    EXPECT_TRUE(near(F::cross_entropy(x, y, options), torch::nn::functional::cross_entropy(x, y, options), 1e-6, 0));
  }
}

TEST(CrossEntropy, OfSequencesHasOneLossATarget) {
  const at::Tensor x = at::randn({2, 3, 9}).to(at::kBFloat16).transpose(1, 2), y = at::zeros({2, 3}, at::kLong);
  EXPECT_EQ(F::cross_entropy(x, y, Options().reduction(torch::kNone)).sizes(), y.sizes());
}

TEST(CrossEntropy, AutocastLeavesTheLogitsAsTheyAre) {
  accelerate::Accelerator accelerator({.mixed_precision = "bf16", .cpu = true});
  const at::Tensor x = at::randn({8, 12}).to(at::kBFloat16).requires_grad_(), y = at::zeros({8}, at::kLong);
  const auto seen = [&](const at::Tensor& loss) {
    const auto& node = *loss.grad_fn();
    return node.name() + " of " + (node.next_edge(0).function ? node.next_edge(0).function->name() : "");
  };
  auto autocast = accelerator.autocast();
  const at::Tensor loss = F::cross_entropy(x, y);
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_THAT(seen(loss), testing::AllOf(HasSubstr("CrossEntropyBackward"), HasSubstr("AccumulateGrad"))) << "no cast";
  EXPECT_EQ(torch::autograd::grad({loss}, {x})[0].scalar_type(), at::kBFloat16);
}

TEST(CrossEntropy, NeedsNoGraph) {
  const at::Tensor x = at::randn({4, 3}).to(at::kHalf), y = at::zeros({4}, at::kLong);
  const at::Tensor usual = F::cross_entropy(x, y);
  EXPECT_FALSE(usual.requires_grad());
  const c10::InferenceMode inference;
  EXPECT_TRUE(at::equal(F::cross_entropy(x.clone(), y.clone()), usual));
}

TEST(CrossEntropy, LogitsThatAreOverwrittenBeforeBackwardAreNoticed) {
  const at::Tensor leaf = at::randn({4, 3}).requires_grad_();
  const at::Tensor logits = leaf * 1;
  const at::Tensor loss = F::cross_entropy(logits, at::zeros({4}, at::kLong));
  logits.mul_(2);
  EXPECT_ANY_THROW(loss.backward());
}

TEST(CrossEntropy, BackwardTwiceNeedsItsGraph) {
  const at::Tensor x = at::randn({4, 3}).requires_grad_(), y = at::zeros({4}, at::kLong);
  const at::Tensor loss = F::cross_entropy(x, y);
  const at::Tensor first = torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true)[0];
  EXPECT_TRUE(at::equal(torch::autograd::grad({loss}, {x})[0], first));
  EXPECT_ANY_THROW(torch::autograd::grad({loss}, {x}));
}

TEST(CrossEntropy, ASecondDerivativeIsRefusedWhereItIsAskedFor) {
  const at::Tensor x = at::randn({4, 3}).requires_grad_();
  const at::Tensor loss = F::cross_entropy(x, at::zeros({4}, at::kLong));
  const at::Tensor gradient = torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0];
  EXPECT_TRUE(gradient.requires_grad());
  EXPECT_THAT([&] { gradient.square().sum().backward(); },
              ThrowsError<UsageError>(
                  {.place = "cross_entropy",
                   .what = "Its gradient cannot be differentiated",
                   .got = "a loss that depends on a gradient of accelerate::nn::functional::cross_entropy",
                   .expected = "one backward pass through it",
                   .remedy = "Use torch::nn::functional::cross_entropy(logits.to(torch::kFloat), labels) there"}));
}

TEST(CrossEntropy, ATargetThatIsNoClassIsNamed) {
  const at::Tensor x = at::randn({3, 4}).to(at::kBFloat16);
  EXPECT_THAT(
      [&] {
        F::cross_entropy(x, at::tensor({0, 4, 1}, at::kLong));
      },
      ThrowsError<DataError>(
          {.place = "cross_entropy",
           .what = "A target is none of the 4 classes",
           .got = "4 in row 1",
           .expected = "0 to 3, or the ignore_index -100",
           .remedy = "Correct the labels, or give ignore_index the number that marks what has none"}));
  EXPECT_THAT(
      [&] {
        F::cross_entropy(x, at::tensor({0, 1, -1}, at::kLong));
      },
      ThrowsError<DataError>({.place = "cross_entropy", .got = "-1 in row 2"}));
}

TEST(CrossEntropy, WhatLibTorchRefusesItRefuses) {
  const at::Tensor x = at::randn({3, 4}).to(at::kBFloat16);
  EXPECT_ANY_THROW(F::cross_entropy(x, at::zeros({2}, at::kLong)));
  EXPECT_ANY_THROW(F::cross_entropy(x, at::zeros({3}, at::kInt)));
  EXPECT_ANY_THROW(F::cross_entropy(x, at::zeros({3}, at::kLong), Options().label_smoothing(1.5)));
  EXPECT_ANY_THROW(F::cross_entropy(at::randn({2, 4, 3}), at::zeros({2, 2}, at::kLong)));
}

TEST(CrossEntropyLoss, IsADropInModule) {
  const at::Tensor weight = at::tensor({1.F, 2.F, 3.F});
  accelerate::nn::CrossEntropyLoss ours(
      torch::nn::CrossEntropyLossOptions().weight(weight).ignore_index(2).label_smoothing(0.1));
  torch::nn::CrossEntropyLoss theirs(
      torch::nn::CrossEntropyLossOptions().weight(weight).ignore_index(2).label_smoothing(0.1));
  EXPECT_EQ(ours->named_buffers().keys(), theirs->named_buffers().keys());
  const at::Tensor x = at::randn({5, 3}), y = at::tensor({0, 1, 2, 1, 0}, at::kLong);
  EXPECT_TRUE(at::equal(ours(x, y), theirs(x, y)));
  const auto copy = std::dynamic_pointer_cast<accelerate::nn::CrossEntropyLossImpl>(ours->clone());
  ASSERT_NE(copy, nullptr);
  ours->weight.fill_(7);
  EXPECT_TRUE(at::equal(copy->forward(x, y), theirs(x, y)));
  accelerate::nn::CrossEntropyLoss plain;
  EXPECT_THAT(plain->named_buffers().keys(), testing::SizeIs(torch::nn::CrossEntropyLoss()->named_buffers().size()));
  EXPECT_TRUE(near(plain(x, y), torch::nn::functional::cross_entropy(x, y), 1e-6, 0));
  std::ostringstream text;
  text << *plain;
  EXPECT_EQ(text.str(), "accelerate::nn::CrossEntropyLoss()");
}

}  // namespace
