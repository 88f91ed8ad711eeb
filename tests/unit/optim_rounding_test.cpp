// bfloat16 parameters that are rounded by chance: either neighbour and nothing else, right on average, what is
// representable unchanged; the same numbers from the same draws.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "accelerate/optim/kernels/operators.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using Tensors = std::vector<at::Tensor>;
constexpr auto kLow = torch::kBFloat16;

at::Tensor draws(int64_t seed) { return torch::tensor({seed, int64_t{0}}, torch::kLong); }

at::Tensor rounded(const at::Tensor& wide, const at::Tensor& draws) {
  at::Tensor low = at::empty_like(wide, wide.options().dtype(kLow), at::MemoryFormat::Preserve);
  kernels::round_stochastically(low, wide, draws);
  return low;
}

/// The bfloat16 towards zero from each element.
at::Tensor truncated(const at::Tensor& wide) {
  return wide.contiguous().view(torch::kInt).bitwise_and(-65536).view(torch::kFloat);
}
/// The one after that, away from zero; itself where nothing was cut off.
at::Tensor next(const at::Tensor& wide) {
  const at::Tensor down = truncated(wide);
  const at::Tensor up = (down.view(torch::kInt) + 65536).view(torch::kFloat);
  return torch::where(down == wide, down, up);
}

// Known answers of the paper's own implementation (Random123, kat_vectors).
TEST(Philox, HasTheKnownAnswers) {
  const auto words = [](uint64_t seed, uint64_t place, uint64_t draw) {
    const auto made = kernels::random_words(seed, place, draw);
    return std::vector<uint32_t>(made.words, made.words + 4);
  };
  EXPECT_EQ(words(0, 0, 0), (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}),
            (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

RC_GTEST_PROP(StochasticRounding, GivesOneOfTheTwoNeighbours, ()) {
  const auto shape =
      *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(0, 4), rc::gen::inRange<int64_t>(0, 40));
  torch::manual_seed(*rc::gen::inRange<uint64_t>(0, 1'000'000));
  at::Tensor wide = torch::randn(shape) * std::exp2(*rc::gen::inRange(-120, 100));
  if (wide.dim() > 1 && *rc::gen::arbitrary<bool>()) wide = wide.transpose(0, 1);
  const at::Tensor low = rounded(wide, draws(*rc::gen::arbitrary<int64_t>())).to(torch::kFloat);
  RC_ASSERT(((low == truncated(wide)) | (low == next(wide))).all().item<bool>());
  // What is representable stays.
  RC_ASSERT(torch::equal(rounded(low, draws(*rc::gen::arbitrary<int64_t>())).to(torch::kFloat), low));
}

TEST(StochasticRounding, KeepsWhatIsNoNumber) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  uint32_t bits = 0x7F800001;  // the NaN with the fewest bits, all of which are cut off
  float nan;
  std::memcpy(&nan, &bits, sizeof(nan));
  for (int64_t seed = 0; seed < 50; ++seed) {
    const at::Tensor low = rounded(torch::tensor({kInf, -kInf, nan, -nan, 0.0F, -0.0F}), draws(seed)).to(torch::kFloat);
    EXPECT_EQ(low[0].item<float>(), kInf);
    EXPECT_EQ(low[1].item<float>(), -kInf);
    EXPECT_TRUE(std::isnan(low[2].item<float>()));
    EXPECT_TRUE(std::isnan(low[3].item<float>()));
    EXPECT_EQ(low[4].item<float>(), 0.0F);
    EXPECT_EQ(low[5].item<float>(), 0.0F);
  }
}

// Of n roundings of one number with a chance p of going up, the share that does deviates by sqrt(p (1 - p) / n): four
// of these for each of 24 numbers would be exceeded once in a thousand runs; the seeds are fixed.
TEST(StochasticRounding, IsRightOnAverage) {
  torch::manual_seed(4);
  const int64_t count = 200'000;
  for (int i = 0; i < 24; ++i) {
    const at::Tensor number = torch::randn({1}) * std::exp2(i - 12);
    const double down = truncated(number).item<double>(), up = next(number).item<double>();
    const at::Tensor low = rounded(number.expand({count}).contiguous(), draws(i)).to(torch::kDouble);
    const double chance = (number.item<double>() - down) / (up - down);
    const double share = (low.mean().item<double>() - down) / (up - down);
    EXPECT_NEAR(share, chance, 4 * std::sqrt(chance * (1 - chance) / count)) << number.item<double>();
  }
}

// Neighbours in memory, tensors of one call and calls after each other have chances of their own.
TEST(StochasticRounding, ChancesAreIndependent) {
  const int64_t n = 100'000;
  const at::Tensor wide = torch::full({n}, 1.0F + 1.0F / 256);  // half way
  const auto went_up = [](const at::Tensor& low) { return (low.to(torch::kDouble) > 1).to(torch::kDouble) - 0.5; };
  at::Tensor state = draws(1);
  Tensors low{torch::empty({n}, kLow), torch::empty({n}, kLow)};
  kernels::round_stochastically(low, Tensors{wide, wide}, state);
  EXPECT_EQ(state[1].item<int64_t>(), 1);
  const at::Tensor first = went_up(low[0]), second = went_up(low[1]), later = went_up(rounded(wide, state));
  EXPECT_EQ(state[1].item<int64_t>(), 2);
  const double bound = 4 * 0.25 / std::sqrt(static_cast<double>(n));
  const auto correlation = [](const at::Tensor& a, const at::Tensor& b) { return (a * b).mean().item<double>(); };
  EXPECT_LT(std::abs(first.mean().item<double>()), 2 * bound);
  EXPECT_LT(std::abs(correlation(first, second)), bound);
  EXPECT_LT(std::abs(correlation(first, later)), bound);
  for (const int64_t lag : {1, 2, 3, 4, 5, 8, 256}) {
    EXPECT_LT(std::abs(correlation(first.slice(0, lag), first.slice(0, 0, n - lag))), bound) << lag;
  }
  EXPECT_TRUE(torch::equal(rounded(wide, draws(5)), rounded(wide, draws(5))));
  EXPECT_FALSE(torch::equal(rounded(wide, draws(5)), rounded(wide, draws(6))));
}

/// The same update of float32 parameters, before it is rounded.
RC_GTEST_PROP(UpdatesByChance, ArePlainOnesOfFloat32Rounded, ()) {
  torch::manual_seed(*rc::gen::inRange<uint64_t>(0, 1'000'000));
  const auto size = *rc::gen::inRange<int64_t>(1, 200);
  const auto rule = *rc::gen::elementOf(std::vector<std::string>{"adam", "amsgrad", "sgd", "momentum", "lion"});
  const bool scales = *rc::gen::arbitrary<bool>(), skips = *rc::gen::inRange(0, 4) == 0;
  const Tensors low{torch::randn({size}).to(kLow)}, gradients{torch::randn({size}).to(kLow)};
  const Tensors before{low[0].clone()};
  const Tensors wide{low[0].to(torch::kFloat)}, wide_gradients{gradients[0].to(torch::kFloat)};
  accelerate::internal::Verdict verdict;
  if (scales) {
    verdict.factor = torch::full({1}, 0.37F);
    wide_gradients[0].mul_(0.37).copy_(wide_gradients[0].to(kLow));
  }
  if (skips) verdict.skip = torch::ones({1});
  const auto run = [&](const Tensors& parameters, const Tensors& given, const at::Tensor& drawn, Tensors& state,
                       const accelerate::internal::Verdict& how) {
    const kernels::Lists lists{parameters, given, {}, drawn};
    const kernels::Clock clock{torch::zeros({}, torch::kLong), torch::full({}, 0.013, torch::kDouble)};
    const Tensors a{state[0]}, b{state[1]}, c{state[2]};
    if (rule == "adam")
      kernels::fused_adam(lists, {a, b, {}}, clock, {0.9, 0.99, 0.1, 1e-8, kernels::Decay::kDecoupled}, how);
    if (rule == "amsgrad")
      kernels::fused_adam(lists, {a, b, c}, clock, {0.9, 0.99, 0.1, 1e-8, kernels::Decay::kGradient}, how);
    if (rule == "sgd") kernels::fused_sgd(lists, {}, {{}, clock.lr}, {0, 0, 0.1, kernels::Momentum::kPlain}, how);
    if (rule == "momentum") kernels::fused_sgd(lists, a, clock, {0.9, 0.1, 0, kernels::Momentum::kNesterov}, how);
    if (rule == "lion") kernels::fused_lion(lists, a, clock.lr, {0.9, 0.99, 0.1}, how);
  };
  Tensors state, wide_state;
  for (int i = 0; i < 3; ++i) {
    state.push_back(torch::rand({size}));
    wide_state.push_back(state.back().clone());
  }
  const at::Tensor drawn = draws(*rc::gen::arbitrary<int64_t>());
  run(low, gradients, drawn, state, verdict);
  accelerate::internal::Verdict plain;
  plain.skip = verdict.skip;
  run(wide, wide_gradients, {}, wide_state, plain);
  const at::Tensor result = low[0].to(torch::kFloat);
  if (skips) {
    RC_ASSERT(torch::equal(low[0], before[0]));
  }
  RC_ASSERT(((result == truncated(wide[0])) | (result == next(wide[0]))).all().item<bool>());
  for (int i = 0; i < 3; ++i) RC_ASSERT(torch::equal(state[i], wide_state[i]));
  RC_ASSERT(drawn[1].item<int64_t>() == 1);
}

TEST(UpdatesByChance, RefuseWhatDoesNotFit) {
  const at::Tensor rate = torch::full({}, 0.1, torch::kDouble);
  const auto run = [&](const at::Tensor& parameter, const at::Tensor& gradient, const at::Tensor& drawn,
                       const Tensors& copies = {}) {
    kernels::fused_sgd({parameter, gradient, copies, drawn}, {}, {{}, rate}, {0, 0, 0, kernels::Momentum::kPlain}, {});
  };
  const at::Tensor low = torch::ones({3}, kLow);
  run(low.clone(), low, draws(0));
  EXPECT_THROW(run(torch::ones({3}), torch::ones({3}), draws(0)), c10::Error);
  EXPECT_THROW(run(torch::ones({3}, torch::kHalf), torch::ones({3}, torch::kHalf), draws(0)), c10::Error);
  EXPECT_THROW(run(low.clone(), torch::ones({3}), draws(0)), c10::Error);
  EXPECT_THROW(run(low.clone(), low, torch::zeros({1}, torch::kLong)), c10::Error);
  EXPECT_THROW(run(low.clone(), low, torch::zeros({2})), c10::Error);
  EXPECT_THROW(run(torch::ones({3}), low, draws(0), {low.clone()}), c10::Error);
}

}  // namespace
