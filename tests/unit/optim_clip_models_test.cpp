// Clipping of several models at once, norms that are not finite, and what clipping says about itself.
#include <limits>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::copy_of;
using training::distance;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class ClipModels : public testing::Test {
 protected:
  Accelerator accelerator;
  Mlp first_net{1}, second_net{2};
  accelerate::Model<training::MlpImpl> first = accelerator.prepare(first_net), second = accelerator.prepare(second_net);

  void backward() {
    const auto [x, y] = make_batch(5, 3);
    accelerator.backward(mse(first(x), y) + 3 * mse(second(x), y));
  }
  std::vector<at::Tensor> both() const {
    auto all = first_net->parameters();
    for (const at::Tensor& parameter : second_net->parameters()) all.push_back(parameter);
    return all;
  }
  std::vector<at::Tensor> gradients() const {
    std::vector<at::Tensor> all;
    for (const at::Tensor& parameter : both()) all.push_back(parameter.grad().clone());
    return all;
  }
};

TEST_F(ClipModels, UnderOneNormAreTheirParametersTogether) {
  for (const double p : {0.5, 1.0, 2.0, 3.0, kInfinity}) {
    first_net->zero_grad();
    second_net->zero_grad();
    backward();
    const auto before = gradients();
    const auto by_list = accelerator.clip_grad_norm_(both(), {.max_norm = 0.1, .norm_type = p});
    const auto expected = gradients();
    const auto parameters = both();
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i].grad().copy_(before[i]);
    const auto by_models = accelerator.clip_grad_norm_({first, second}, {.max_norm = 0.1, .norm_type = p});
    EXPECT_EQ(by_models.norm.item<double>(), by_list.norm.item<double>()) << p;
    EXPECT_EQ(distance(gradients(), expected), 0.0) << p;
    EXPECT_GT(distance(gradients(), before), 0.01) << "it bit";
  }
}

TEST_F(ClipModels, ByValueAndInTheShortForm) {
  backward();
  accelerator.clip_grad_value_({first, second}, {.clip_value = 1e-3});
  for (const at::Tensor& gradient : gradients()) EXPECT_LE(gradient.abs().max().item<double>(), 1e-3);
  EXPECT_GT(accelerator.clip_grad_norm_({first, second}, 1e9).norm.item<double>(), 0);
}

TEST_F(ClipModels, ANormThatIsNotFiniteIsAnErrorWhenAsked) {
  for (const double bad : {kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    backward();
    second_net->hidden->bias.mutable_grad()[2] = bad;
    const auto before = gradients();
    expect_error<UsageError>(
        [&] {
          accelerator.clip_grad_norm_({first, second}, {.max_norm = 1, .error_if_nonfinite = true});
        },
        {"clip_grad_norm_", "parameter \"hidden.bias\"", ".error_if_nonfinite asks for; nothing was scaled",
         "zero_grad()"});
    expect_error<UsageError>(
        [&] { accelerator.clip_grad_norm_(both(), {.max_norm = 1, .error_if_nonfinite = true}); },
        {"clip_grad_norm_", "parameter 5 of 8", "finite norm of order 2", "leave .error_if_nonfinite out"});
    const auto after = gradients();
    for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(torch::allclose(before[i], after[i], 0, 0, true)) << i;
    EXPECT_NO_THROW(accelerator.clip_grad_norm_({first, second}, {.max_norm = 1}));
    first_net->zero_grad();
    second_net->zero_grad();
  }
}

TEST_F(ClipModels, ASumThatOverflowsIsNotFiniteThoughEveryGradientIs) {
  auto parameter = torch::zeros({2}).requires_grad_();
  parameter.mutable_grad() = torch::full({2}, 3e38f);
  expect_error<UsageError>(
      [&] {
        accelerator.clip_grad_norm_(std::vector<at::Tensor>{parameter}, {.max_norm = 1, .error_if_nonfinite = true});
      },
      {"clip_grad_norm_", "a norm of inf; the gradients themselves are finite", "finite norm", "overflow"});
}

TEST_F(ClipModels, AFiniteNormPassesTheCheckUnchanged) {
  backward();
  const auto checked = accelerator.clip_grad_norm_({first, second}, {.max_norm = 0.1, .error_if_nonfinite = true});
  const auto after = gradients();
  first_net->zero_grad();
  second_net->zero_grad();
  backward();
  EXPECT_EQ(accelerator.clip_grad_norm_({first, second}, 0.1).norm.item<double>(), checked.norm.item<double>());
  EXPECT_EQ(distance(gradients(), after), 0.0);
}

TEST_F(ClipModels, OfAnotherAcceleratorAreRefused) {
  Accelerator other;
  auto foreign = other.prepare(training::Mlp(1));
  for (const char* verb : {"clip_grad_norm_", "clip_grad_value_"}) {
    const bool by_norm = verb == std::string("clip_grad_norm_");
    training::expect_error<accelerate::UsageError>(
        [&] {
          by_norm ? accelerator.clip_grad_norm_(foreign, 1.0)
                  : accelerator.clip_grad_value_(foreign, {.clip_value = 1.0});
        },
        {verb, "that Accelerator's handle", "a model that this one prepared", "of the Accelerator that prepared it"});
  }
}

TEST(ClipOnMicroSteps, DoesNothingAndSaysSoWhateverIsAsked) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp(1));
  const auto [x, y] = make_batch(5, 3);
  const auto window = accelerator.accumulate(model);
  accelerator.backward(mse(model(x), y));
  model->out->bias.mutable_grad()[0] = kInfinity;
  const auto before = model->out->weight.grad().clone();
  const auto result = accelerator.clip_grad_norm_({model}, {.max_norm = 1e-6, .error_if_nonfinite = true});
  EXPECT_TRUE(result.accumulated);
  EXPECT_FALSE(result.norm.defined());
  EXPECT_TRUE(accelerator.clip_grad_value_({model}, {.clip_value = 1e-6}).accumulated);
  EXPECT_TRUE(torch::equal(model->out->weight.grad(), before));
}

TEST(Unscaling, IsNothingWithoutAScale) {
  for (const char* precision : {"no", "bf16"}) {
    Accelerator accelerator({.mixed_precision = precision});
    Mlp net(1, torch::kFloat), other(2, torch::kFloat);
    auto [model, second, optimizer, second_optimizer] = accelerator.prepare(
        net, other, torch::optim::SGD(net->parameters(), 0.1), torch::optim::SGD(other->parameters(), 0.1));
    const auto [x, y] = make_batch(5, 3, torch::kFloat);
    accelerator.backward(mse(model(x), y) + mse(second(x), y));
    const auto before = net->out->weight.grad().clone();
    accelerator.unscale_gradients();
    accelerator.unscale_gradients(optimizer);
    accelerator.unscale_gradients(optimizer, second_optimizer);
    EXPECT_TRUE(torch::equal(net->out->weight.grad(), before));
    EXPECT_NO_THROW(accelerator.clip_grad_norm_(model, 1.0));
    EXPECT_NO_THROW(accelerator.clip_grad_norm_(second, 1.0));
    EXPECT_NO_THROW(accelerator.clip_grad_value_(model, {.clip_value = 1.0}));
    accelerator.end_training();
    EXPECT_THROW(accelerator.unscale_gradients(), UsageError);
  }
}

}  // namespace
