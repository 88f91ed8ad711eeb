// bfloat16: what a model computes in, what it returns, and that autocast is never left switched on.
#include <ATen/autocast_mode.h>

#include <map>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using training::expect_error;

bool autocast_is_on() { return at::autocast::is_autocast_enabled(at::kCPU); }
at::ScalarType matmul_dtype() { return torch::mm(torch::ones({8, 8}), torch::ones({8, 8})).scalar_type(); }

/// Remembers the dtypes inside its forward.
struct WitnessImpl : torch::nn::Module {
  WitnessImpl() {
    torch::manual_seed(7);
    linear = register_module("linear", torch::nn::Linear(4, 4));
  }
  at::Tensor forward(const at::Tensor& x) {
    autocast = autocast_is_on();
    const auto h = linear(x);
    inside = h.scalar_type();
    added = (x + x).scalar_type();
    return h;
  }
  std::map<std::string, at::Tensor> several(const at::Tensor& x) {
    return {{"low", linear(x)}, {"half", x.to(torch::kHalf)}, {"double", x.to(torch::kDouble)}, {"index", x.argmax(1)},
            {"mask", x > 0},    {"empty", at::Tensor()}};
  }
  at::Tensor fail(const at::Tensor&) { throw std::runtime_error("in forward"); }
  torch::nn::Linear linear{nullptr};
  bool autocast = false;
  at::ScalarType inside = torch::kFloat, added = torch::kFloat;
};
TORCH_MODULE(Witness);

class Bf16 : public testing::Test {
 protected:
  Accelerator accelerator{{.mixed_precision = "bf16"}};
  Witness net;
  accelerate::Model<WitnessImpl> model = accelerator.prepare(net);
  at::Tensor x = torch::randn({3, 4});
};

TEST_F(Bf16, ComputesInBfloat16AndReturnsFloat) {
  const auto output = model(x);
  EXPECT_TRUE(net->autocast);
  EXPECT_EQ(net->inside, torch::kBFloat16);
  EXPECT_EQ(net->added, torch::kFloat) << "element-wise operators are not cast";
  EXPECT_EQ(output.scalar_type(), torch::kFloat);
  EXPECT_FALSE(autocast_is_on()) << "not after the call";
}

TEST_F(Bf16, ValuesAreThoseOfBfloat16) {
  const auto by_hand = torch::linear(x.to(torch::kBFloat16), net->linear->weight.to(torch::kBFloat16),
                                     net->linear->bias.to(torch::kBFloat16));
  EXPECT_TRUE(torch::equal(model(x), by_hand.to(torch::kFloat)));
  EXPECT_FALSE(torch::equal(model(x), net->linear(x)));
}

TEST_F(Bf16, ParametersGradientsAndOptimizerStateStayFloat) {
  torch::optim::AdamW adamw(net->parameters());
  auto optimizer = accelerator.prepare(adamw);
  accelerator.backward(model(x).pow(2).mean());
  optimizer.step();
  for (const auto& parameter : net->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat);
    EXPECT_EQ(parameter.grad().scalar_type(), torch::kFloat);
    const auto& state = static_cast<torch::optim::AdamWParamState&>(*adamw.state().at(parameter.unsafeGetTensorImpl()));
    EXPECT_EQ(state.exp_avg().scalar_type(), torch::kFloat);
  }
}

TEST_F(Bf16, OnlyLowPrecisionOutputsAreConverted) {
  const auto outputs = model.call(&WitnessImpl::several, x);
  EXPECT_EQ(outputs.at("low").scalar_type(), torch::kFloat);
  EXPECT_EQ(outputs.at("half").scalar_type(), torch::kFloat);
  EXPECT_EQ(outputs.at("double").scalar_type(), torch::kDouble);
  EXPECT_EQ(outputs.at("index").scalar_type(), torch::kLong);
  EXPECT_EQ(outputs.at("mask").scalar_type(), torch::kBool);
  EXPECT_FALSE(outputs.at("empty").defined());
}

TEST_F(Bf16, TheUnpreparedModuleComputesInFullPrecision) {
  EXPECT_EQ(net(x).scalar_type(), torch::kFloat);
  EXPECT_EQ(net->inside, torch::kFloat);
}

// The cast of a weight is cached within a call; after an update it must be made again.
TEST_F(Bf16, AForwardAfterAnUpdateSeesTheNewWeights) {
  auto optimizer = accelerator.prepare(torch::optim::SGD(net->parameters(), 0.5));
  const auto before = model(x);
  accelerator.backward(before.pow(2).mean());
  optimizer.step();
  const auto by_hand = torch::linear(x.to(torch::kBFloat16), net->linear->weight.to(torch::kBFloat16),
                                     net->linear->bias.to(torch::kBFloat16));
  const auto after = model(x);
  EXPECT_TRUE(torch::equal(after, by_hand.to(torch::kFloat)));
  EXPECT_FALSE(torch::equal(after, before));
}

TEST_F(Bf16, AnExceptionInForwardRestoresTheState) {
  EXPECT_THROW(model.call(&WitnessImpl::fail, x), std::runtime_error);
  EXPECT_FALSE(autocast_is_on());
  EXPECT_EQ(matmul_dtype(), torch::kFloat);
}

TEST_F(Bf16, TheGuardSwitchesOnNestsAndRestores) {
  EXPECT_EQ(matmul_dtype(), torch::kFloat);
  {
    auto outer = accelerator.autocast();
    EXPECT_EQ(matmul_dtype(), torch::kBFloat16);
    {
      auto off = accelerator.autocast({.enabled = false});
      EXPECT_EQ(matmul_dtype(), torch::kFloat);
      {
        auto again = accelerator.autocast();
        EXPECT_EQ(matmul_dtype(), torch::kBFloat16);
      }
      EXPECT_EQ(matmul_dtype(), torch::kFloat);
    }
    EXPECT_EQ(matmul_dtype(), torch::kBFloat16);
  }
  EXPECT_EQ(matmul_dtype(), torch::kFloat);
  EXPECT_FALSE(autocast_is_on());
}

TEST_F(Bf16, AModelCallInsideAGuardLeavesTheGuardAsItWas) {
  auto outer = accelerator.autocast();
  EXPECT_EQ(model(x).scalar_type(), torch::kFloat) << "a model call converts its outputs all the same";
  EXPECT_EQ(matmul_dtype(), torch::kBFloat16);
  {
    auto off = accelerator.autocast({.enabled = false});
    model(x);
    EXPECT_EQ(net->inside, torch::kBFloat16) << "a model call has the model's precision";
    EXPECT_EQ(matmul_dtype(), torch::kFloat);
  }
}

TEST_F(Bf16, AnExceptionEndsTheGuard) {
  EXPECT_THROW(
      {
        auto guard = accelerator.autocast();
        throw std::runtime_error("inside");
      },
      std::runtime_error);
  EXPECT_FALSE(autocast_is_on());
}

TEST_F(Bf16, AMovedGuardEndsOnce) {
  {
    auto guard = accelerator.autocast();
    {
      const auto moved = std::move(guard);
      EXPECT_TRUE(autocast_is_on());
    }
    EXPECT_FALSE(autocast_is_on());
  }
  EXPECT_FALSE(autocast_is_on());
}

TEST_F(Bf16, TheUsersOwnAutocastSettingsComeBack) {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, torch::kHalf);
  at::autocast::set_autocast_cache_enabled(false);
  model(x);
  { auto guard = accelerator.autocast(); }
  EXPECT_TRUE(autocast_is_on());
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), torch::kHalf);
  EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::set_autocast_dtype(at::kCPU, torch::kBFloat16);
  at::autocast::set_autocast_cache_enabled(true);
}

// A parabola is learnt as well as in full precision; 1e-2 is the rounding of bfloat16's eight bits.
TEST_F(Bf16, TrainsAsFullPrecisionDoesWithinItsRounding) {
  const auto losses = [](const char* precision) {
    Accelerator trainer({.mixed_precision = precision});
    training::Mlp net(3, torch::kFloat);
    auto [prepared, optimizer] = trainer.prepare(net, torch::optim::AdamW(net->parameters(), 1e-2));
    const auto [input, target] = training::make_batch(32, 4, torch::kFloat);
    std::vector<double> values;
    for (int i = 0; i < 30; ++i) {
      const auto loss = training::mse(prepared(input), target);
      values.push_back(loss.item<double>());
      trainer.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
    }
    return values;
  };
  const auto full = losses("no"), low = losses("bf16");
  for (size_t i = 0; i < full.size(); ++i) EXPECT_NEAR(low[i], full[i], 1e-2 * (1 + full[i])) << i;
  EXPECT_LT(low.back(), 0.8 * low.front());
}

TEST(FullPrecision, TheGuardDoesNothingAndOutputsKeepTheirDtype) {
  const Accelerator accelerator;
  auto guard = accelerator.autocast();
  EXPECT_FALSE(autocast_is_on());
  Accelerator other;
  Witness net;
  net->to(torch::kDouble);
  auto model = other.prepare(net);
  EXPECT_EQ(model(torch::ones({1, 4}, torch::kDouble)).scalar_type(), torch::kDouble);
  EXPECT_EQ(model.call(&WitnessImpl::several, torch::ones({1, 4}, torch::kDouble)).at("half").scalar_type(),
            torch::kHalf);
}

TEST(FullPrecision, AModelOfBfloat16WeightsStaysBfloat16) {
  Accelerator accelerator;
  Witness net;
  net->to(torch::kBFloat16);
  auto model = accelerator.prepare(net);
  EXPECT_EQ(model(torch::ones({1, 4}, torch::kBFloat16)).scalar_type(), torch::kBFloat16);
}

TEST(UnknownPrecision, NamesTheKnownOnesAndWhereItCameFrom) {
  expect_error<ConfigError>([] { Accelerator({.mixed_precision = "bfloat16"}); },
                            {"mixed_precision", "\"bfloat16\" (argument)", "\"bf16\"", "ACCELERATE_MIXED_PRECISION"});
  expect_error<ConfigError>([] { Accelerator({.mixed_precision = ""}); },
                            {"mixed_precision", "\"\" (argument)", "\"no\"", "AcceleratorOptions::mixed_precision"});
  expect_error<ConfigError>([] { Accelerator({.mixed_precision = "BF16"}); },
                            {"mixed_precision", "\"BF16\"", "\"bf16\"", "AcceleratorOptions::mixed_precision"});
}

}  // namespace
