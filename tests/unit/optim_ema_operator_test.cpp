// The operator that has averages follow weights: against LibTorch's lerp, bit for bit, and against the formula.
#include <ATen/ATen.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

#include "accelerate/optim/ema.h"
#include "accelerate/optim/kernels/operators.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::EmaOptions;
using accelerate::internal::ema_decay;
using kernels::EmaDecay;
using kernels::EmaRise;
using training::equal;
using Tensors = std::vector<at::Tensor>;

EmaOptions any_options() {
  EmaOptions options;
  options.decay = *rc::gen::elementOf(std::vector<double>{0, 0.3, 0.5, 0.9, 0.999, 0.9999, 1});
  options.min_decay = options.decay * *rc::gen::inRange(0, 101) / 100.0;
  options.use_ema_warmup = *rc::gen::arbitrary<bool>();
  options.ramp_up = !options.use_ema_warmup && *rc::gen::arbitrary<bool>();
  options.inv_gamma = *rc::gen::inRange(1, 500) / 100.0;
  options.power = *rc::gen::inRange(1, 200) / 100.0;
  options.update_after_step = *rc::gen::inRange(0, 6);
  return options;
}

EmaDecay rule_of(const EmaOptions& options) {
  return {options.decay,
          options.min_decay,
          options.inv_gamma,
          options.power,
          options.update_after_step,
          options.use_ema_warmup ? EmaRise::kWarmUp
          : options.ramp_up      ? EmaRise::kRamp
                                 : EmaRise::kNone};
}

/// Empty ones, of one element, longer than a vector, transposed.
at::Tensor any_tensor(at::ScalarType dtype) {
  const auto shape =
      *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(0, 4), rc::gen::inRange<int64_t>(0, 12));
  at::Tensor tensor = torch::randn(shape, torch::kDouble).to(dtype);
  return tensor.dim() > 1 && *rc::gen::arbitrary<bool>() ? tensor.transpose(0, 1) : tensor;
}

struct Pair {
  at::Tensor average, weight;
};
Pair any_pair() {
  const auto [wide, low] =
      *rc::gen::elementOf(std::vector<std::pair<at::ScalarType, at::ScalarType>>{{torch::kFloat, torch::kFloat},
                                                                                 {torch::kDouble, torch::kDouble},
                                                                                 {torch::kFloat, torch::kHalf},
                                                                                 {torch::kFloat, torch::kBFloat16}});
  const at::Tensor average = any_tensor(wide);
  return {average, torch::empty_like(average, average.options().dtype(low)).normal_()};
}

RC_GTEST_PROP(EmaOperator, IsLibTorchsLerpBitForBitAndTheFormula, ()) {
  const EmaOptions options = any_options();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  Tensors averages, weights, theirs, exact;
  const auto count = *rc::gen::inRange<size_t>(1, 7);
  for (size_t i = 0; i < count; ++i) {
    const Pair pair = any_pair();
    averages.push_back(pair.average);
    weights.push_back(pair.weight);
    theirs.push_back(torch::empty_like(pair.average).copy_(pair.average));
    exact.push_back(pair.average.clone().to(torch::kDouble));
  }
  const auto before = *rc::gen::inRange<int64_t>(0, 2000);
  const at::Tensor updates = torch::full({}, before, torch::kLong);
  int64_t applied = before;
  // Not 0 is skipped, whatever it is; none at all is applied.
  for (const int verdict : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 4))) {
    for (at::Tensor& weight : weights) weight.normal_();
    const Tensors kept = training::copy_of(weights);
    const at::Tensor skip = verdict == 0 ? at::Tensor() : torch::full({1}, verdict == 3 ? 0.25F : float(verdict - 1));
    kernels::fused_ema({averages, weights}, updates, rule_of(options), skip);
    RC_ASSERT(equal(weights, kept));
    if (verdict < 2) {
      const double decay = ema_decay(options, ++applied);
      for (size_t i = 0; i < count; ++i) {
        const at::Tensor weight = weights[i].to(theirs[i].scalar_type());
        decay == 0 ? theirs[i].copy_(weight) : theirs[i].lerp_(weight, 1 - decay);
        exact[i] = decay * exact[i] + (1 - decay) * weight.to(torch::kDouble);
      }
    }
    RC_ASSERT(updates.item<int64_t>() == applied);
    for (size_t i = 0; i < count; ++i) {
      RC_ASSERT(torch::equal(averages[i], theirs[i]));
      if (averages[i].numel() == 0) continue;
      const double off = (averages[i].to(torch::kDouble) - exact[i]).abs().max().item<double>();
      RC_ASSERT(off <= 5 * static_cast<double>(applied - before) *
                           (averages[i].scalar_type() == torch::kDouble ? 2.3e-16 : 1.2e-7));
    }
  }
}

/// More elements than one thread takes.
TEST(EmaOperator, WalksLargeTensors) {
  const at::Tensor average = torch::randn({70001}), theirs = average.clone(), weight = torch::randn({70001});
  const at::Tensor updates = torch::ones({}, torch::kLong);
  kernels::fused_ema({{average}, {weight}}, updates, rule_of({.decay = 0.9}));
  EXPECT_TRUE(torch::equal(average, theirs.lerp_(weight, 1 - 0.9)));
}

TEST(EmaOperator, ACopyDoesNotAskWhatTheAverageWas) {
  const at::Tensor average = torch::full({3}, std::nan("")), weight = torch::tensor({1.0F, 2.0F, -0.0F});
  kernels::fused_ema({{average}, {weight}}, torch::zeros({}, torch::kLong), rule_of({}));
  EXPECT_TRUE(torch::equal(average, weight));
  average.fill_(std::numeric_limits<float>::infinity());
  kernels::fused_ema({{average}, {weight}}, torch::full({}, 7, torch::kLong), rule_of({.decay = 0}));
  EXPECT_TRUE(torch::equal(average, weight)) << "a decay of 0 copies, too";
}

TEST(EmaOperator, CountsWithoutTensors) {
  const at::Tensor updates = torch::zeros({}, torch::kLong);
  kernels::fused_ema({{}, {}}, updates, rule_of({}));
  EXPECT_EQ(updates.item<int64_t>(), 1);
}

TEST(EmaOperator, RefusesWhatDoesNotFitAndChangesNothing) {
  const at::Tensor updates = torch::zeros({}, torch::kLong), average = torch::ones({4, 2});
  const auto refused = [&](const char* why, const Tensors& averages, const Tensors& weights, const at::Tensor& count,
                           const at::Tensor& skip = {}) {
    SCOPED_TRACE(why);
    try {
      kernels::fused_ema({averages, weights}, count, rule_of({}), skip);
      ADD_FAILURE() << "taken";
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  };
  refused("2 weights beside 1 averages", {average}, {average, average}, updates);
  refused("cannot follow a weight of Double", {average}, {average.to(torch::kDouble)}, updates);
  refused("average 0, of BFloat16", {average.to(torch::kBFloat16)}, {average.to(torch::kBFloat16)}, updates);
  refused("cannot follow a weight of Float [2, 4]", {average}, {average.t()}, updates);
  refused("[4, 2] on cpu", {average}, {torch::ones({2, 4}).t()}, updates);
  refused("updates is Int", {average}, {average.clone()}, torch::zeros({}, torch::kInt));
  refused("found_inf is Double", {average}, {average.clone()}, updates, torch::zeros({1}, torch::kDouble));
  EXPECT_TRUE(torch::equal(average, torch::ones({4, 2})));
  EXPECT_EQ(updates.item<int64_t>(), 0);
}

}  // namespace
