// The update operators of this library: against LibTorch's fused ones, and what LibTorch's cannot.
#include <ATen/ATen.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <limits>

#include "accelerate/optim/kernels/operators.h"
#include "tests/unit/training.h"

namespace {

namespace kernels = accelerate::internal::kernels;
using accelerate::internal::Verdict;
using kernels::Adam;
using kernels::Decay;
using kernels::Momentum;
using kernels::Sgd;
using training::copy_of;
using training::equal;
using Tensors = std::vector<at::Tensor>;

struct Numbers {
  double lr, beta1, beta2, weight_decay, eps;
};

/// Anything that an optimizer may be given.
Numbers any_numbers() {
  const auto one_of = [](std::vector<double> values) { return *rc::gen::elementOf(values); };
  return {one_of({1e-3, 0.1, 3e-4}), one_of({0.9, 0.0, 0.5}), one_of({0.999, 0.9, 0.5}), one_of({0.0, 0.01, 0.3}),
          one_of({1e-8, 1e-3})};
}

/// Shapes with and without elements, some transposed.
Tensors any_parameters(at::ScalarType dtype) {
  Tensors tensors;
  const auto count = *rc::gen::inRange<size_t>(1, 5);
  for (size_t i = 0; i < count; ++i) {
    const auto shape =
        *rc::gen::container<std::vector<int64_t>>(*rc::gen::inRange<size_t>(0, 4), rc::gen::inRange<int64_t>(0, 9));
    at::Tensor tensor = torch::randn(shape, torch::kDouble).to(dtype);
    if (tensor.dim() > 1 && *rc::gen::arbitrary<bool>()) tensor = tensor.transpose(0, 1);
    tensors.push_back(tensor);
  }
  return tensors;
}

Tensors like(const Tensors& tensors, const std::function<at::Tensor(const at::Tensor&)>& make) {
  Tensors made;
  for (const at::Tensor& tensor : tensors) made.push_back(make(tensor));
  return made;
}
Tensors noise(const Tensors& tensors) {
  return like(tensors, [](const at::Tensor& t) { return torch::randn_like(t); });
}
Tensors zeros(const Tensors& tensors) {
  return like(tensors, [](const at::Tensor& t) { return torch::zeros_like(t); });
}
/// Copies that lie as the tensors lie.
Tensors same(const Tensors& tensors) {
  return like(tensors, [](const at::Tensor& t) { return torch::empty_like(t).copy_(t); });
}

/// The kernels round some sums otherwise: a few units of the last place of the numbers, which are around 1.
double tolerance(at::ScalarType dtype) {
  if (dtype == torch::kDouble) return 1e-13;
  return dtype == torch::kFloat ? 2e-6 : dtype == torch::kHalf ? 4e-3 : 3e-2;
}
void expect_near(const Tensors& ours, const Tensors& theirs, at::ScalarType dtype) {
  RC_ASSERT(ours.size() == theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    if (ours[i].numel() == 0) continue;
    const at::Tensor a = ours[i].to(torch::kDouble), b = theirs[i].to(torch::kDouble);
    const double largest = b.abs().max().item<double>(), difference = (a - b).abs().max().item<double>();
    if (!(difference <= tolerance(dtype) * std::max(1.0, largest))) RC_FAIL("differ by " + std::to_string(difference));
  }
}

at::ScalarType any_dtype() { return *rc::gen::element(torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf); }
at::Tensor rate(double lr) { return torch::full({}, lr, torch::kDouble); }

RC_GTEST_PROP(UpdateOperators, AdamIsThatOfLibTorch, ()) {
  const at::ScalarType dtype = any_dtype();
  const Numbers n = any_numbers();
  const auto decay = *rc::gen::element(Decay::kGradient, Decay::kDecoupled);
  const bool amsgrad = *rc::gen::arbitrary<bool>();
  const auto before = *rc::gen::inRange<int64_t>(0, 2000);
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  Tensors ours = any_parameters(dtype), theirs = same(ours);
  Tensors first = zeros(ours), second = zeros(ours), largest = amsgrad ? zeros(ours) : Tensors();
  Tensors their_first = zeros(ours), their_second = zeros(ours), their_largest = same(largest);
  const at::Tensor updates = torch::full({}, before, torch::kLong);
  for (int64_t step = 1; step <= 3; ++step) {
    const Tensors gradients = noise(ours), kept = same(gradients);
    kernels::fused_adam({ours, gradients}, {first, second, largest}, {updates, rate(n.lr)},
                        {n.beta1, n.beta2, n.weight_decay, n.eps, decay}, {});
    RC_ASSERT(equal(gradients, kept));
    const Tensors steps(ours.size(), torch::full({}, static_cast<double>(before + step), torch::kFloat));
    if (decay == Decay::kDecoupled) {
      at::_fused_adamw_(theirs, gradients, their_first, their_second, their_largest, steps, n.lr, n.beta1, n.beta2,
                        n.weight_decay, n.eps, amsgrad, false);
    } else {
      at::_fused_adam_(theirs, gradients, their_first, their_second, their_largest, steps, n.lr, n.beta1, n.beta2,
                       n.weight_decay, n.eps, amsgrad, false);
    }
  }
  RC_ASSERT(updates.item<int64_t>() == before + 3);
  expect_near(ours, theirs, dtype);
  expect_near(first, their_first, dtype);
  expect_near(second, their_second, dtype);
  expect_near(largest, their_largest, dtype);
}

RC_GTEST_PROP(UpdateOperators, SgdIsThatOfLibTorch, ()) {
  const at::ScalarType dtype = any_dtype();
  const Numbers n = any_numbers();
  const double momentum = *rc::gen::element(0.0, 0.9, 0.5);
  const bool nesterov = momentum != 0 && *rc::gen::arbitrary<bool>();
  const double dampening = nesterov ? 0.0 : *rc::gen::element(0.0, 0.4);
  const bool counts = *rc::gen::arbitrary<bool>() || dampening != 0;
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  Tensors ours = any_parameters(dtype), theirs = same(ours);
  Tensors buffers = momentum == 0 ? Tensors() : zeros(ours), their_buffers = same(buffers);
  const at::Tensor updates = counts ? torch::zeros({}, torch::kLong) : at::Tensor();
  for (int64_t step = 1; step <= 3; ++step) {
    const Tensors gradients = noise(ours);
    kernels::fused_sgd({ours, gradients}, buffers, {updates, rate(n.lr)},
                       {momentum, dampening, n.weight_decay, nesterov ? Momentum::kNesterov : Momentum::kPlain}, {});
    // In float32 where elements are shorter: there the library's kernel for the CPU is wrong.
    const auto wide = [&](const Tensors& tensors) {
      return like(tensors, [&](const at::Tensor& t) { return t.to(dtype == torch::kDouble ? dtype : torch::kFloat); });
    };
    Tensors values = wide(theirs), begun = wide(their_buffers);
    at::_fused_sgd_(values, wide(gradients), begun, n.weight_decay, momentum, n.lr, dampening, nesterov, false,
                    /*is_first_step=*/step == 1);
    for (size_t i = 0; i < theirs.size(); ++i) theirs[i].copy_(values[i]);
    for (size_t i = 0; i < their_buffers.size(); ++i) their_buffers[i].copy_(begun[i]);
  }
  expect_near(ours, theirs, dtype);
  expect_near(buffers, their_buffers, dtype);
}

/// The paper's program, written with LibTorch's operators.
RC_GTEST_PROP(UpdateOperators, LionIsThePapersProgram, ()) {
  const at::ScalarType dtype = *rc::gen::element(torch::kFloat, torch::kDouble);
  const Numbers n = any_numbers();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  Tensors ours = any_parameters(dtype), theirs = same(ours), averages = zeros(ours), their_averages = zeros(ours);
  for (int step = 0; step < 3; ++step) {
    const Tensors gradients = noise(ours);
    kernels::fused_lion({ours, gradients}, averages, rate(n.lr), {n.beta1, n.beta2, n.weight_decay}, {});
    for (size_t i = 0; i < theirs.size(); ++i) {
      const at::Tensor direction = their_averages[i] * n.beta1 + gradients[i] * (1 - n.beta1);
      theirs[i].sub_(n.lr * (direction.sign() + n.weight_decay * theirs[i]));
      their_averages[i].mul_(n.beta2).add_(gradients[i], 1 - n.beta2);
    }
  }
  expect_near(ours, theirs, dtype);
  expect_near(averages, their_averages, dtype);
}

/// Gradients times a factor are gradients multiplied before, and are seen as such afterwards.
RC_GTEST_PROP(UpdateOperators, AFactorIsAMultiplicationBefore, ()) {
  const at::ScalarType dtype = any_dtype();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const at::Tensor factor = torch::full({1}, *rc::gen::element(0.25F, 3.0F, 1.0F / 3, 0.0F));
  Tensors ours = any_parameters(dtype), before = same(ours);
  const Tensors gradients = noise(ours),
                multiplied = like(gradients, [&](const at::Tensor&g) {
                  return (g.to(dtype == torch::kDouble ? dtype : torch::kFloat) * factor.item<float>()).to(dtype);
                });
  Tensors first = zeros(ours), second = zeros(ours), others = zeros(ours), more = zeros(ours);
  const at::Tensor updates = torch::zeros({}, torch::kLong), again = torch::zeros({}, torch::kLong);
  kernels::fused_adam({ours, gradients}, {first, second, {}}, {updates, rate(0.1)},
                      {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, {.factor = factor});
  kernels::fused_adam({before, multiplied}, {others, more, {}}, {again, rate(0.1)},
                      {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, {});
  RC_ASSERT(equal(gradients, multiplied));
  RC_ASSERT(equal(ours, before));
  RC_ASSERT(equal(first, others));
}

/// The four rules on whatever tensors, with one state each more than they need.
struct Arrays {
  Tensors parameters, gradients, first, second, copies;
  at::Tensor updates = torch::zeros({}, torch::kLong);
};
void update(int rule, Arrays& a, const Verdict& verdict) {
  const kernels::Lists lists{a.parameters, a.gradients, a.copies};
  if (rule == 0) {
    kernels::fused_adam(lists, {a.first, a.second, {}}, {a.updates, rate(0.1)},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kGradient}, verdict);
  } else if (rule == 1) {
    kernels::fused_adam(lists, {a.first, a.second, a.second}, {a.updates, rate(0.1)},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, verdict);
  } else if (rule == 2) {
    kernels::fused_sgd(lists, a.first, {a.updates, rate(0.1)}, {0.9, 0.1, 0.1, Momentum::kPlain}, verdict);
  } else if (rule == 3) {
    kernels::fused_sgd(lists, {}, {{}, rate(0.1)}, {0, 0, 0.1, Momentum::kPlain}, verdict);
  } else {
    kernels::fused_lion(lists, a.first, rate(0.1), {0.9, 0.99, 0.1}, verdict);
  }
}

/// With copies the parameters are updated as those of float32 by gradients that were rounded, and the copies are these
/// parameters rounded.
RC_GTEST_PROP(UpdateOperators, CopiesAreRoundedParametersOfFloat32, ()) {
  const auto low = *rc::gen::element(torch::kBFloat16, torch::kHalf);
  const int rule = *rc::gen::inRange(0, 5);
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const auto to = [](const Tensors& tensors, at::ScalarType dtype) {
    return like(tensors, [&](const at::Tensor& t) { return t.to(dtype); });
  };
  Arrays ours{.parameters = any_parameters(torch::kFloat), .gradients = {}, .first = {}, .second = {}, .copies = {}};
  ours.gradients = to(noise(ours.parameters), low);
  ours.first = zeros(ours.parameters);
  ours.second = zeros(ours.parameters);
  ours.copies = to(zeros(ours.parameters), low);
  Arrays theirs{.parameters = same(ours.parameters),
                .gradients = to(ours.gradients, torch::kFloat),
                .first = zeros(ours.parameters),
                .second = zeros(ours.parameters),
                .copies = {}};
  update(rule, ours, {});
  update(rule, theirs, {});
  RC_ASSERT(equal(ours.parameters, theirs.parameters));
  RC_ASSERT(equal(ours.first, theirs.first));
  RC_ASSERT(equal(ours.copies, to(ours.parameters, low)));
  // The factor is seen in the gradients, and a skipped update in nothing else.
  const Tensors before = same(ours.parameters), gradients = same(ours.gradients), copies = same(ours.copies);
  update(rule, ours, {.factor = torch::full({1}, 0.3F), .skip = torch::ones({1})});
  RC_ASSERT(equal(ours.parameters, before) && equal(ours.copies, copies));
  for (size_t i = 0; i < gradients.size(); ++i) {
    RC_ASSERT(torch::equal(ours.gradients[i], (gradients[i].to(torch::kFloat) * 0.3F).to(low)));
  }
}

/// A skipped update leaves everything but the gradients' unit.
RC_GTEST_PROP(UpdateOperators, ASkippedUpdateOnlyMultipliesGradients, ()) {
  const at::ScalarType dtype = any_dtype();
  const int which = *rc::gen::inRange(0, 4);
  const float found = *rc::gen::element(1.0F, 2.0F, std::numeric_limits<float>::infinity());
  const bool scales = *rc::gen::arbitrary<bool>();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const Tensors ours = any_parameters(dtype), gradients = noise(ours), first = noise(ours), second = noise(ours);
  const Tensors a = same(ours), b = same(first), c = same(second), g = same(gradients);
  const at::Tensor updates = torch::full({}, 7, torch::kLong);
  const Verdict verdict{.factor = scales ? torch::full({1}, 0.5) : at::Tensor(), .skip = torch::full({1}, found)};
  if (which == 0) {
    kernels::fused_adam({ours, gradients}, {first, second, {}}, {updates, rate(0.1)},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kGradient}, verdict);
  } else if (which == 1) {
    kernels::fused_adam({ours, gradients}, {first, second, second}, {updates, rate(0.1)},
                        {0.9, 0.99, 0.1, 1e-8, Decay::kDecoupled}, verdict);
  } else if (which == 2) {
    kernels::fused_sgd({ours, gradients}, first, {updates, rate(0.1)}, {0.9, 0.1, 0.1, Momentum::kPlain}, verdict);
  } else {
    kernels::fused_lion({ours, gradients}, first, rate(0.1), {0.9, 0.99, 0.1}, verdict);
  }
  RC_ASSERT(equal(ours, a) && equal(first, b) && equal(second, c));
  RC_ASSERT(updates.item<int64_t>() == 7);
  for (size_t i = 0; i < g.size(); ++i) RC_ASSERT(torch::equal(gradients[i], scales ? g[i] * 0.5 : g[i]));
}

RC_GTEST_PROP(UpdateOperators, ANormIsThatOfAllElementsTimesTheFactor, ()) {
  const at::ScalarType dtype = any_dtype();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const Tensors gradients = any_parameters(dtype), before = same(gradients);
  const float factor = *rc::gen::element(1.0F, 0.125F, 3.0F);
  const kernels::Norm seen = kernels::gradient_norm(gradients, torch::full({}, factor));
  double sum = 0;
  for (const at::Tensor& gradient : gradients) {
    sum += (gradient.to(torch::kDouble) * factor).square().sum().item<double>();
  }
  RC_ASSERT(std::abs(seen.norm.item<double>() - std::sqrt(sum)) <= 1e-6 * std::sqrt(sum));
  RC_ASSERT(seen.found.item<float>() == 0);
  RC_ASSERT(seen.norm.scalar_type() == (dtype == torch::kDouble ? torch::kDouble : torch::kFloat));
  RC_ASSERT(equal(gradients, before));
  const auto with_elements =
      std::find_if(gradients.begin(), gradients.end(), [](const auto& g) { return g.numel() > 0; });
  if (with_elements == gradients.end()) return;
  const int64_t where = *rc::gen::inRange<int64_t>(0, with_elements->numel());
  const double bad = *rc::gen::element(std::numeric_limits<double>::infinity(),
                                       -std::numeric_limits<double>::infinity(), std::nan(""));
  with_elements->as_strided({with_elements->numel()}, {1})[where] = bad;
  RC_ASSERT(kernels::gradient_norm(gradients).found.item<float>() == 1);
}

RC_GTEST_PROP(UpdateOperators, AScaleIsAMultiplication, ()) {
  const at::ScalarType dtype = any_dtype();
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const Tensors tensors = any_parameters(dtype), before = same(tensors);
  const float factor = *rc::gen::element(1.0F, 0.125F, 3.0F, 0.0F);
  kernels::scale(tensors, torch::full({1}, factor));
  for (size_t i = 0; i < tensors.size(); ++i) RC_ASSERT(torch::equal(tensors[i], before[i] * factor));
}

TEST(UpdateOperators, ANanInTheSecondMomentReachesTheLargestAndTheParameter) {
  const Tensors parameters{torch::ones({2})}, gradients{torch::tensor({std::nanf(""), 1.0F})};
  const Tensors first = zeros(parameters), second = zeros(parameters), largest = zeros(parameters);
  kernels::fused_adam({parameters, gradients}, {first, second, largest}, {torch::zeros({}, torch::kLong), rate(0.1)},
                      {0.9, 0.99, 0, 1e-8, Decay::kDecoupled}, {});
  EXPECT_TRUE(parameters[0][0].isnan().item<bool>());
  EXPECT_TRUE(largest[0][0].isnan().item<bool>());
  EXPECT_FALSE(parameters[0][1].isnan().item<bool>());
}

TEST(UpdateOperators, RefuseWhatDoesNotFitTogether) {
  const Tensors p{torch::ones({4, 2})}, g{torch::ones({4, 2})}, m{torch::zeros({4, 2})};
  const auto refused = [](const std::string& why, const std::function<void()>& call) {
    try {
      call();
      ADD_FAILURE() << "not refused: " << why;
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what_without_backtrace(), testing::HasSubstr(why));
    }
  };
  const auto lion = [&](const Tensors& parameters, const Tensors& gradients, const Tensors& averages,
                        const at::Tensor& lr, const Verdict& verdict = {}) {
    return [=] { kernels::fused_lion({parameters, gradients}, averages, lr, {0.9, 0.99, 0}, verdict); };
  };
  refused("0 tensors beside 1 parameters", lion(p, {}, m, rate(1)));
  refused("[2, 4]", lion(p, {torch::ones({2, 4})}, m, rate(1)));
  refused("beside parameter 0", lion(p, {torch::ones({2, 4}).t()}, m, rate(1)));
  refused("Double", lion(p, g, {torch::zeros({4, 2}, torch::kDouble)}, rate(1)));
  refused("gaps or overlaps", lion({torch::ones({4, 4}).slice(1, 0, 2)}, g, m, rate(1)));
  refused("lr is Float", lion(p, g, m, torch::ones({})));
  refused("without a learning rate", lion(p, g, m, {}));
  refused("Int cannot be updated", lion({torch::ones({2}, torch::kInt)}, {torch::ones({2}, torch::kInt)},
                                        {torch::ones({2}, torch::kInt)}, rate(1)));
  refused("copies of Float of parameters of Float", [&] {
    kernels::fused_lion({p, g, copy_of(p)}, m, rate(1), {0.9, 0.99, 0}, {});
  });
  const Tensors low{p[0].to(torch::kBFloat16)};
  refused("a tensor of Float", [&] { kernels::fused_lion({p, g, low}, m, rate(1), {0.9, 0.99, 0}, {}); });
  refused("found_inf is Double", lion(p, g, m, rate(1), {.skip = torch::zeros({1}, torch::kDouble)}));
  refused("grad_factor is Float of 2", lion(p, g, m, rate(1), {.factor = torch::zeros({2})}));
  EXPECT_TRUE(torch::equal(p[0], torch::ones({4, 2})));
}

TEST(UpdateOperators, AreKnownToTheDispatcherWithTheirAliases) {
  kernels::fused_lion({{}, {}}, {}, rate(1), {0.9, 0.99, 0}, {});
  for (const char* name : {"fused_adam_", "fused_adamw_", "fused_sgd_", "fused_lion_", "scale_", "fused_ema_",
                           "follow_weights_", "publish_update_"}) {
    const auto found = c10::Dispatcher::singleton().findSchema({std::string("accelerate::") + name, ""});
    ASSERT_TRUE(found.has_value()) << name;
    EXPECT_TRUE(found->schema().is_mutable()) << name;
  }
}

TEST(UpdateOperators, OutcomesAreThoseOfTheirUpdate) {
  const at::Tensor number = torch::zeros({}, torch::kLong), outcomes = torch::zeros({2}, torch::kLong);
  EXPECT_FALSE(kernels::peek_update(outcomes, 1).has_value());
  kernels::publish_update(number, outcomes, torch::ones({1}));
  EXPECT_TRUE(kernels::await_update(number, outcomes, 1));
  EXPECT_FALSE(kernels::peek_update(outcomes, 2).has_value());
  kernels::publish_update(number, outcomes, torch::zeros({1}));
  EXPECT_FALSE(kernels::await_update(number, outcomes, 2));
  kernels::publish_update(number, outcomes, {});
  EXPECT_EQ(kernels::peek_update(outcomes, 3), std::optional(false));
  const at::Tensor kept = torch::full({1}, 7.0F);
  kernels::publish_update(number, outcomes, torch::full({1}, 0.5F), kept);
  EXPECT_EQ(kept.item<float>(), 1);
  kernels::publish_update(number, outcomes, {}, kept);
  EXPECT_EQ(kept.item<float>(), 0);
}

}  // namespace
