// Clipping against the formula by hand. Source: torch.nn.utils.clip_grad_norm_ and clip_grad_value_.
#include <cmath>
#include <limits>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor parameter(std::vector<double> gradient, at::ScalarType dtype = torch::kDouble) {
  auto tensor = torch::zeros({static_cast<int64_t>(gradient.size())}, dtype).requires_grad_();
  tensor.mutable_grad() = torch::tensor(gradient, torch::kDouble).to(dtype);
  return tensor;
}

/// The p-norm of all elements of all gradients, element by element.
double norm_by_hand(const std::vector<at::Tensor>& parameters, double p) {
  double sum = 0, largest = 0;
  for (const at::Tensor& tensor : parameters) {
    if (!tensor.grad().defined()) continue;
    const auto gradient = tensor.grad().to(torch::kDouble).flatten().contiguous();
    for (int64_t i = 0; i < gradient.numel(); ++i) {
      const double magnitude = std::abs(gradient[i].item<double>());
      sum += std::pow(magnitude, p);
      largest = std::max(largest, magnitude);
    }
  }
  return std::isinf(p) ? largest : std::pow(sum, 1 / p);
}

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& tensor : parameters) gradients.push_back(tensor.grad().clone());
  return gradients;
}

class ClipNorm : public testing::TestWithParam<double> {};

TEST_P(ClipNorm, IsTheNormByHandAndScalesByMaxOverNorm) {
  const double p = GetParam();
  Accelerator accelerator;
  for (const double max_norm : {1e-3, 0.5, 1e9}) {
    Mlp net(1);
    const auto [x, y] = make_batch(5, 2);
    mse(net(x), y).backward();
    const auto before = gradients_of(net->parameters());
    const double expected = norm_by_hand(net->parameters(), p);
    const auto result = accelerator.clip_grad_norm_(net->parameters(), {.max_norm = max_norm, .norm_type = p});
    EXPECT_FALSE(result.accumulated);
    EXPECT_EQ(result.norm.dim(), 0);
    EXPECT_NEAR(result.norm.item<double>(), expected, 1e-12 * expected);
    const double factor = std::min(1.0, max_norm / (expected + 1e-6));
    const auto after = gradients_of(net->parameters());
    for (size_t i = 0; i < before.size(); ++i) {
      EXPECT_TRUE(torch::allclose(after[i], before[i] * factor, 1e-12, 0)) << "max_norm " << max_norm;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Norms, ClipNorm, testing::Values(1.0, 2.0, 3.0, 0.5, kInfinity));

TEST(ClipNormOf, APreparedModelIsThatOfItsParameters) {
  Accelerator accelerator;
  Mlp net(1), plain(1);
  auto model = accelerator.prepare(net);
  const auto [x, y] = make_batch(5, 2);
  accelerator.backward(mse(model(x), y));
  mse(plain(x), y).backward();
  const auto ours = accelerator.clip_grad_norm_(model, {.max_norm = 0.1});
  const double theirs = torch::nn::utils::clip_grad_norm_(plain->parameters(), 0.1);
  EXPECT_NEAR(ours.norm.item<double>(), theirs, 1e-12);
  EXPECT_LT(training::distance(gradients_of(net->parameters()), gradients_of(plain->parameters())), 1e-12);
  const at::Tensor& norm = ours;
  EXPECT_TRUE(norm.is_same(ours.norm)) << "the result converts to the norm, as the original returns it";
}

TEST(ClipNormOf, NoGradientsIsZero) {
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare(net);
  EXPECT_EQ(accelerator.clip_grad_norm_(model, {.max_norm = 1.0}).norm.item<double>(), 0.0);
  EXPECT_EQ(accelerator.clip_grad_norm_(std::vector<at::Tensor>{}, {.max_norm = 1.0}).norm.item<double>(), 0.0);
}

TEST(ClipNormOf, ParametersWithoutAGradientAreLeftOut) {
  Accelerator accelerator;
  const auto none = torch::zeros({3}).requires_grad_();
  const std::vector<at::Tensor> parameters{none, parameter({3, 0}), none, parameter({0, 4}), none};
  EXPECT_NEAR(accelerator.clip_grad_norm_(parameters, {.max_norm = 1.0}).norm.item<double>(), 5.0, 1e-15);
  EXPECT_FALSE(none.grad().defined());
  EXPECT_NEAR(parameters[1].grad()[0].item<double>(), 3 / (5 + 1e-6), 1e-15);
}

TEST(ClipNormOf, MixedDtypesHaveOneNormAndKeepTheirDtypes) {
  Accelerator accelerator;
  const std::vector<at::Tensor> parameters{parameter({2, 0}), parameter({0, 4}, torch::kFloat),
                                           parameter({4, 0}, torch::kBFloat16), parameter({0, 8}, torch::kFloat)};
  const auto norm = accelerator.clip_grad_norm_(parameters, {.max_norm = 5.0}).norm;
  EXPECT_NEAR(norm.item<double>(), 10.0, 1e-6);
  EXPECT_NEAR(parameters[0].grad()[0].item<double>(), 1.0, 1e-6);
  EXPECT_NEAR(parameters[1].grad()[1].item<float>(), 2.0, 1e-6);
  EXPECT_EQ(parameters[2].grad()[0].item<float>(), 2.0f);
  EXPECT_EQ(parameters[1].grad().scalar_type(), torch::kFloat);
  EXPECT_EQ(parameters[2].grad().scalar_type(), torch::kBFloat16);
}

// A norm of 16 bits has three digits, and half precision ends at 65504.
TEST(ClipNormOf, GradientsOf16BitsHaveANormOfFloat32) {
  Accelerator accelerator;
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    for (const double p : {1.0, 2.0, 3.0}) {
      const std::vector<at::Tensor> parameters{parameter(std::vector<double>(10'000, 0.371), dtype),
                                               parameter({40'000, 50'000, 60'000}, dtype)};
      const double expected = norm_by_hand(parameters, p);
      const auto norm = accelerator.clip_grad_norm_(parameters, {.max_norm = 1e9, .norm_type = p}).norm;
      EXPECT_EQ(norm.scalar_type(), torch::kFloat);
      EXPECT_NEAR(norm.item<double>(), expected, 1e-5 * expected) << "p " << p;
      accelerator.clip_grad_norm_(parameters, {.max_norm = 1000, .norm_type = p});
      EXPECT_NEAR(norm_by_hand(parameters, p), 1000, 5) << "p " << p;
      EXPECT_EQ(parameters[0].grad().scalar_type(), dtype);
    }
  }
}

// As in the original: not an error; the norm says what happened.
TEST(ClipNormOf, NonFiniteGradients) {
  Accelerator accelerator;
  const std::vector<at::Tensor> infinite{parameter({1, kInfinity}), parameter({2, 3})};
  EXPECT_TRUE(std::isinf(accelerator.clip_grad_norm_(infinite, {.max_norm = 1.0}).norm.item<double>()));
  EXPECT_EQ(infinite[0].grad()[0].item<double>(), 0.0);
  EXPECT_TRUE(std::isnan(infinite[0].grad()[1].item<double>()));
  EXPECT_EQ(infinite[1].grad()[1].item<double>(), 0.0);
  const std::vector<at::Tensor> nan{parameter({1, std::nan("")}), parameter({2, 3})};
  EXPECT_TRUE(std::isnan(accelerator.clip_grad_norm_(nan, {.max_norm = 1.0}).norm.item<double>()));
  EXPECT_TRUE(std::isnan(nan[1].grad()[0].item<double>()));
}

TEST(ClipNormOf, AnInfiniteMaximumOnlyMeasures) {
  Accelerator accelerator;
  const std::vector<at::Tensor> parameters{parameter({3, 4})};
  EXPECT_NEAR(accelerator.clip_grad_norm_(parameters, {.max_norm = kInfinity}).norm.item<double>(), 5.0, 1e-15);
  EXPECT_EQ(parameters[0].grad()[0].item<double>(), 3.0);
}

TEST(ClipNormOf, ZeroGradientsStayZero) {
  Accelerator accelerator;
  const std::vector<at::Tensor> parameters{parameter({0, 0})};
  EXPECT_EQ(accelerator.clip_grad_norm_(parameters, {.max_norm = 1.0}).norm.item<double>(), 0.0);
  EXPECT_EQ(parameters[0].grad()[0].item<double>(), 0.0);
}

/// An embedding whose weight is also the output layer's.
struct TiedImpl : torch::nn::Module {
  TiedImpl() {
    torch::manual_seed(2);
    embedding = register_module("embedding", torch::nn::Embedding(5, 3));
    head = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(3, 5).bias(false)));
    head->weight = head->register_parameter("tied", embedding->weight);
  }
  at::Tensor forward(const at::Tensor& index) { return torch::linear(embedding(index), head->weight); }
  torch::nn::Embedding embedding{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Tied);

TEST(ClipNormOf, ATiedParameterCountsAndIsScaledOnce) {
  Accelerator accelerator;
  Tied net;
  auto model = accelerator.prepare(net);
  const auto index = torch::tensor({0, 1, 2});
  for (const bool through_model : {true, false}) {
    net->zero_grad();
    accelerator.backward(model(index).pow(2).sum());
    const auto before = net->embedding->weight.grad().clone();
    const double norm = before.norm().item<double>();
    const auto result = through_model ? accelerator.clip_grad_norm_(model, {.max_norm = 0.1})
                                      : accelerator.clip_grad_norm_(net->parameters(), {.max_norm = 0.1});
    EXPECT_NEAR(result.norm.item<double>(), norm, 1e-5 * norm);
    EXPECT_NEAR(net->embedding->weight.grad().norm().item<double>(), 0.1, 1e-5);
  }
}

TEST(ClipNormOf, ALayerUnfrozenAfterPrepareIsClippedToo) {
  Accelerator accelerator;
  Mlp net(1);
  net->hidden->weight.set_requires_grad(false);
  auto model = accelerator.prepare(net);
  net->hidden->weight.set_requires_grad(true);
  const auto [x, y] = make_batch(5, 2);
  accelerator.backward(mse(model(x), y));
  const double expected = norm_by_hand(net->parameters(), 2);
  EXPECT_NEAR(accelerator.clip_grad_norm_(model, {.max_norm = 1e-3}).norm.item<double>(), expected, 1e-12);
  EXPECT_NEAR(norm_by_hand(net->parameters(), 2), 1e-3, 1e-6);
}

TEST(ClipValue, ClampsEveryElementAndKeepsTheRest) {
  Accelerator accelerator;
  const auto none = torch::zeros({3}).requires_grad_();
  const std::vector<at::Tensor> parameters{parameter({-3, 0.2, 5}), none, parameter({-0.5, 7}, torch::kFloat)};
  const auto result = accelerator.clip_grad_value_(parameters, {.clip_value = 0.5});
  EXPECT_FALSE(result.norm.defined());
  EXPECT_FALSE(result.accumulated);
  EXPECT_TRUE(torch::equal(parameters[0].grad(), torch::tensor({-0.5, 0.2, 0.5}, torch::kDouble)));
  EXPECT_TRUE(torch::equal(parameters[2].grad(), torch::tensor({-0.5f, 0.5f})));
  EXPECT_FALSE(none.grad().defined());
}

TEST(ClipValue, OfAPreparedModelAndOfNothing) {
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare(net);
  EXPECT_NO_THROW(accelerator.clip_grad_value_(model, {.clip_value = 1.0}));
  const auto [x, y] = make_batch(5, 2);
  accelerator.backward(mse(model(x), y));
  accelerator.clip_grad_value_(model, {.clip_value = 1e-3});
  for (const auto& tensor : net->parameters()) EXPECT_LE(tensor.grad().abs().max().item<double>(), 1e-3);
}

TEST(ClipOptions, WhatIsNotPositiveIsRefusedBeforeAnythingChanges) {
  Accelerator accelerator;
  const std::vector<at::Tensor> parameters{parameter({3, 4})};
  for (const double max_norm : {0.0, -1.0, std::nan("")}) {
    expect_error<UsageError>(
        [&] { accelerator.clip_grad_norm_(parameters, {.max_norm = max_norm}); },
        {"clip_grad_norm_", ".max_norm = " + std::to_string(max_norm), "more than 0", "{.max_norm = 1.0}"});
  }
  expect_error<UsageError>([&] { accelerator.clip_grad_norm_(parameters, {.max_norm = 1.0, .norm_type = -2}); },
                           {"clip_grad_norm_", ".norm_type = -2", "more than 0", ".norm_type"});
  expect_error<UsageError>([&] { accelerator.clip_grad_value_(parameters, {.clip_value = -1}); },
                           {"clip_grad_value_", ".clip_value = -1", "more than 0", "{.clip_value = 1.0}"});
  expect_error<UsageError>([&] { accelerator.clip_grad_value_(parameters, {}); },
                           {"clip_grad_value_", ".clip_value = 0", "more than 0", "{.clip_value = 1.0}"});
  EXPECT_EQ(parameters[0].grad()[1].item<double>(), 4.0);
}

}  // namespace
