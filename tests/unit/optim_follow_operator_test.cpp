// Averages beside the parameters of an update operator: those of `fused_ema_` after it, bit for bit.
#include <ATen/ATen.h>
#include <rapidcheck/gtest.h>

#include "accelerate/optim/kernels/operators.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::internal::Verdict;
using kernels::Decay;
using kernels::EmaDecay;
using kernels::EmaRise;
using kernels::Momentum;
using training::copy_of;
using training::equal;
using Tensors = std::vector<at::Tensor>;

/// What the parameters are, and what they are written as.
enum class Weights { kFloat, kDouble, kHalf, kBFloat16, kCopiedToHalf, kCopiedToBFloat16, kRounded };

struct Arrays {
  Tensors parameters, gradients, first, second, largest, copies, averages;
  at::Tensor updates = torch::full({}, 3, torch::kLong), count = torch::zeros({}, torch::kLong),
             kept = torch::empty({}, torch::kDouble), draws = {};
};

Tensors copied(const Tensors& tensors) {
  Tensors made;
  for (const at::Tensor& tensor : tensors) made.push_back(torch::empty_like(tensor).copy_(tensor));
  return made;
}
Arrays copied(const Arrays& a) {
  Arrays made{.parameters = copied(a.parameters),
              .gradients = copied(a.gradients),
              .first = copied(a.first),
              .second = copied(a.second),
              .largest = copied(a.largest),
              .copies = copied(a.copies),
              .averages = copied(a.averages)};
  if (a.draws.defined()) made.draws = a.draws.clone();
  return made;
}
/// NaN is equal to itself: an average that never moved may be one.
bool same(const Tensors& a, const Tensors& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].scalar_type() != b[i].scalar_type() || !torch::allclose(a[i], b[i], 0, 0, /*equal_nan=*/true))
      return false;
  }
  return a.size() == b.size();
}

Arrays any_arrays(Weights weights, size_t count) {
  const bool copies = weights == Weights::kCopiedToHalf || weights == Weights::kCopiedToBFloat16;
  const bool is_half = weights == Weights::kHalf || weights == Weights::kCopiedToHalf;
  const at::ScalarType dtype = weights == Weights::kDouble                                     ? torch::kDouble
                               : weights == Weights::kHalf                                     ? torch::kHalf
                               : weights == Weights::kBFloat16 || weights == Weights::kRounded ? torch::kBFloat16
                                                                                               : torch::kFloat;
  const at::ScalarType low = is_half ? torch::kHalf : torch::kBFloat16,
                       wide = dtype == torch::kDouble ? dtype : torch::kFloat;
  Arrays a;
  if (weights == Weights::kRounded) a.draws = torch::tensor({int64_t{5}, int64_t{0}}, torch::kLong);
  for (size_t i = 0; i < count; ++i) {
    const auto shape =
        *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(0, 4), rc::gen::inRange<int64_t>(0, 9));
    at::Tensor parameter = torch::randn(shape, torch::kDouble).to(dtype);
    if (parameter.dim() > 1 && *rc::gen::arbitrary<bool>()) parameter = parameter.transpose(0, 1);
    const auto noise = [&](at::ScalarType of) { return torch::empty_like(parameter, of).normal_(); };
    const at::ScalarType state = weights == Weights::kRounded ? torch::kFloat : dtype;
    a.parameters.push_back(parameter);
    a.gradients.push_back(noise(copies ? low : dtype));
    a.first.push_back(noise(state));
    a.second.push_back(noise(state).abs_());
    a.largest.push_back(noise(state).abs_());
    if (copies) a.copies.push_back(noise(low));
    a.averages.push_back(noise(wide));
  }
  return a;
}

void update(int rule, Arrays& a, const Verdict& verdict, const kernels::Following& following) {
  const kernels::Lists lists{a.parameters, a.gradients, a.copies, a.draws, following};
  const at::Tensor rate = torch::full({}, 0.1, torch::kDouble);
  if (rule == 0) {
    kernels::fused_adam(lists, {a.first, a.second, {}}, {a.updates, rate}, {0.9, 0.99, 0.1, 1e-8, Decay::kGradient},
                        verdict);
  } else if (rule == 1) {
    kernels::fused_adam(lists, {a.first, a.second, a.largest}, {a.updates, rate},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, verdict);
  } else if (rule == 2) {
    kernels::fused_sgd(lists, a.first, {a.updates, rate}, {0.9, 0.1, 0.1, Momentum::kPlain}, verdict);
  } else if (rule == 3) {
    kernels::fused_sgd(lists, {}, {{}, rate}, {0, 0, 0.1, Momentum::kPlain}, verdict);
  } else {
    kernels::fused_lion(lists, a.first, rate, {0.9, 0.99, 0.1}, verdict);
  }
}

// Random rules, kinds of parameters, shapes, decays, verdicts, and tensors without an average.
RC_GTEST_PROP(FollowOperators, AveragesAreThoseOfAPassAfterTheUpdate, ()) {
  const int rule = *rc::gen::inRange(0, 5);
  const auto weights = *rc::gen::element(Weights::kFloat, Weights::kDouble, Weights::kHalf, Weights::kBFloat16,
                                         Weights::kCopiedToHalf, Weights::kCopiedToBFloat16, Weights::kRounded);
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const auto count = *rc::gen::inRange<size_t>(1, 5);
  Arrays ours = any_arrays(weights, count), theirs = copied(ours);
  const EmaDecay decay{*rc::gen::element(0.0, 0.3, 0.9, 0.999),
                       0,
                       2,
                       0.75,
                       *rc::gen::inRange<int64_t>(0, 3),
                       *rc::gen::element(EmaRise::kNone, EmaRise::kWarmUp, EmaRise::kRamp)};
  std::vector<size_t> followed;
  Tensors given;
  for (size_t i = 0; i < count; ++i) {
    const bool has_one = *rc::gen::inRange(0, 4) != 0;
    if (has_one) followed.push_back(i);
    given.push_back(has_one ? ours.averages[i] : torch::empty({0}));
  }
  const Tensors untouched = copied(ours.averages);
  int64_t applied = 0;
  for (const int what : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 5))) {
    for (size_t i = 0; i < count; ++i) {
      ours.gradients[i].normal_();
      theirs.gradients[i].copy_(ours.gradients[i]);
    }
    Verdict verdict;
    if (what > 1) verdict.skip = torch::full({1}, what == 2 ? 0.0F : 0.25F);
    if (what > 2) verdict.factor = torch::full({1}, 0.5F);
    update(rule, ours, verdict, {.averages = given, .updates = ours.count, .kept = ours.kept, .decay = decay});
    update(rule, theirs, verdict, {});
    Tensors averages, values;
    for (const size_t i : followed) {
      averages.push_back(theirs.averages[i]);
      values.push_back(theirs.parameters[i]);
    }
    kernels::fused_ema({averages, values}, theirs.count, decay, verdict.skip);
    applied += what > 2 ? 0 : 1;
    RC_ASSERT(ours.count.item<int64_t>() == applied);
    RC_ASSERT(theirs.count.item<int64_t>() == applied);
    if (applied > 0) RC_ASSERT(ours.kept.item<double>() == decay.of(applied));
    RC_ASSERT(same(ours.averages, theirs.averages));
    RC_ASSERT(same(ours.parameters, theirs.parameters) && same(ours.copies, theirs.copies));
    RC_ASSERT(same(ours.first, theirs.first) && same(ours.gradients, theirs.gradients));
  }
  for (size_t i = 0; i < count; ++i) {
    if (given[i].numel() == 0) RC_ASSERT(same({ours.averages[i]}, {untouched[i]}));
  }
}

/// More elements than one thread takes.
TEST(FollowOperators, WalkLargeTensors) {
  const at::Tensor parameter = torch::randn({70001}), average = torch::randn({70001}), theirs = average.clone();
  const at::Tensor count = torch::ones({}, torch::kLong), kept = torch::empty({}, torch::kDouble);
  const EmaDecay decay{.decay = 0.9};
  const Tensors averages{average};
  kernels::fused_sgd({.parameters = parameter,
                      .gradients = torch::randn({70001}),
                      .following = {.averages = averages, .updates = count, .kept = kept, .decay = decay}},
                     {}, {{}, torch::full({}, 0.1, torch::kDouble)}, {0, 0, 0, Momentum::kPlain}, {});
  EXPECT_TRUE(torch::equal(average, theirs.lerp_(parameter, 1 - 0.9)));
}

/// Of two calls of one update the first counts.
TEST(FollowOperators, ALaterCallAndAPassKeepWhatTheFirstHasCounted) {
  const EmaDecay decay{.decay = 0.5, .rise = EmaRise::kRamp};
  Tensors weights{torch::ones({2}), torch::full({3}, 2.0F), torch::full({1}, 4.0F)};
  Tensors averages{torch::zeros({2}), torch::zeros({3}), torch::zeros({1})};
  const at::Tensor count = torch::full({}, 3, torch::kLong), kept = torch::empty({}, torch::kDouble),
                   none = torch::zeros({}, torch::kDouble), skip = torch::zeros({1});
  for (const float skips : {1.0F, 0.0F}) {
    skip.fill_(skips);
    for (size_t i = 0; i < 2; ++i) {
      const at::Tensor gradient = torch::zeros_like(weights[i]);
      kernels::fused_sgd({.parameters = weights[i],
                          .gradients = gradient,
                          .following = {.averages = averages[i],
                                        .updates = i == 0 ? count : at::Tensor(),
                                        .kept = kept,
                                        .decay = decay}},
                         {}, {{}, none}, {0, 0, 0, Momentum::kPlain}, {.skip = skip});
    }
    kernels::follow_weights({averages[2], weights[2]}, kept, skip);
    EXPECT_EQ(count.item<int64_t>(), skips == 1 ? 3 : 4);
    for (size_t i = 0; i < 3; ++i) {
      const double share = skips == 1 ? 0 : 1 - decay.of(4);
      EXPECT_NEAR(averages[i][0].item<double>(), share * weights[i][0].item<double>(), 1e-7) << i;
    }
  }
}

TEST(FollowOperators, RefuseAveragesThatDoNotFitAndChangeNothing) {
  const at::Tensor weight = torch::ones({4, 2}), gradient = torch::ones({4, 2}), count = torch::zeros({}, torch::kLong),
                   kept = torch::zeros({}, torch::kDouble), rate = torch::ones({}, torch::kDouble);
  const auto refused = [&](const char* why, const Tensors& averages, const at::Tensor& updates,
                           const at::Tensor& share) {
    SCOPED_TRACE(why);
    try {
      kernels::fused_lion({.parameters = weight,
                           .gradients = gradient,
                           .following = {.averages = averages, .updates = updates, .kept = share}},
                          at::zeros_like(weight), rate, {0.9, 0.99, 0}, {});
      ADD_FAILURE() << "taken";
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what_without_backtrace()).find(why), std::string::npos) << error.what();
    }
  };
  refused("2 tensors beside 1 parameters", {weight.clone(), weight.clone()}, count, kept);
  refused("a tensor of Double [4, 2]", {weight.to(torch::kDouble)}, count, kept);
  refused("a tensor of Float [2, 4]", {weight.t()}, count, kept);
  refused("beside parameter 0", {torch::ones({2, 4}).t()}, count, kept);
  refused("average_updates is Int", {weight.clone()}, torch::zeros({}, torch::kInt), kept);
  refused("average_kept is Float", {weight.clone()}, count, torch::zeros({}));
  refused("without what they keep", {weight.clone()}, count, {});
  EXPECT_TRUE(torch::equal(weight, torch::ones({4, 2})));
  EXPECT_EQ(count.item<int64_t>(), 0);
  EXPECT_THROW(kernels::follow_weights({weight.clone(), weight}, {}), c10::Error);
  EXPECT_THROW(kernels::follow_weights({weight.t(), weight}, kept), c10::Error);
}

}  // namespace
