// Plug-ins of the host program's own: found by name, asked before the built-in ones, refused when a name is taken.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/plan.h"
#include "accelerate/strategy/strategy.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;

PrecisionEntry precision_named(const std::string& name) {
  return {name, [](c10::Device) -> std::optional<std::string> { return std::nullopt; },
          PrecisionPolicy{.compute = at::kBFloat16, .output = at::kDouble}};
}

PrecisionEntry refusing_precision() {
  return {"fp4", [](c10::Device) -> std::optional<std::string> { return "its weights are too large"; }, {}};
}

/// Counts its calls and exchanges nothing.
struct Calls {
  int attach = 0, before_forward = 0, before_backward = 0, after_backward = 0;
};
Calls calls;

class Counting final : public Strategy {
 public:
  ParameterTable attach(const AttachContext& context) override {
    ++calls.attach;
    ParameterTable table;
    for (const auto& item : context.module.named_parameters()) {
      const torch::Tensor& tensor = item.value();
      table.push_back({item.key(), tensor, tensor.sizes().vec(), {0, tensor.numel()}, tensor.requires_grad()});
    }
    return table;
  }
  void before_forward(GradientSync) override { ++calls.before_forward; }
  void before_backward(const at::Tensor&, GradientSync) override { ++calls.before_backward; }
  void after_backward() override { ++calls.after_backward; }
  void save(StateWriter&) const override {}
  void load(StateReader&) override {}
};

StrategyEntry counting_strategy() {
  return {"counting", 10, [](const World&) -> std::optional<std::string> { return std::nullopt; },
          [](const std::any&) -> std::unique_ptr<Strategy> { return std::make_unique<Counting>(); }};
}

TEST(Extensions, APrecisionOfOnesOwnIsChosenByName) {
  const AcceleratorOptions options{.mixed_precision = "mine", .extensions = {.precisions = {precision_named("mine")}}};
  Accelerator accelerator(options);
  EXPECT_EQ(accelerator.mixed_precision(), "mine");
  EXPECT_EQ(accelerator.plan().at("compute_dtype").value, "BFloat16");
  const auto model = accelerator.prepare(torch::nn::Linear(2, 2));
  EXPECT_EQ(model(torch::ones({1, 2})).scalar_type(), torch::kDouble) << "its output dtype is applied";
}

TEST(Extensions, APrecisionIsNotChosenBecauseItIsThere) {
  Accelerator accelerator({.extensions = {.precisions = {precision_named("mine")}}});
  EXPECT_EQ(accelerator.mixed_precision(), "no");
}

TEST(Extensions, APrecisionIsListedAmongTheKnownOnes) {
  const AcceleratorOptions options{.mixed_precision = "your", .extensions = {.precisions = {precision_named("mine")}}};
  EXPECT_THAT([&] { Accelerator accelerator(options); }, ThrowsError<ConfigError>({.place = "mixed_precision",
                                                                                   .what = "not known",
                                                                                   .got = "\"your\"",
                                                                                   .expected = "\"no\", \"mine\"",
                                                                                   .remedy = "Set"}));
}

TEST(Extensions, APrecisionsOwnReasonIsGiven) {
  const AcceleratorOptions options{.mixed_precision = "fp4", .extensions = {.precisions = {refusing_precision()}}};
  EXPECT_THAT([&] { Accelerator accelerator(options); }, ThrowsError<ConfigError>({.place = "mixed_precision",
                                                                                   .what = "its weights are too large",
                                                                                   .got = "\"fp4\" (argument)",
                                                                                   .expected = "a precision",
                                                                                   .remedy = "Choose one of"}));
}

TEST(Extensions, APrecisionOfABuiltInNameIsRefused) {
  EXPECT_THAT([] { Accelerator accelerator({.extensions = {.precisions = {precision_named("bf16")}}}); },
              ThrowsError<ConfigError>({.place = "extensions",
                                        .what = "the same name",
                                        .got = "precision \"bf16\" twice",
                                        .expected = "names other than \"bf16\"",
                                        .remedy = "Rename"}));
}

TEST(Extensions, AStrategyOfOnesOwnIsAskedFirstAndCalledAroundEveryStep) {
  calls = {};
  Accelerator accelerator({.extensions = {.strategies = {counting_strategy()}}});
  EXPECT_EQ(accelerator.plan().at("strategy").value, "counting");
  const auto model = accelerator.prepare(torch::nn::Linear(2, 1));
  EXPECT_EQ(calls.attach, 1);
  for (int i = 1; i <= 3; ++i) {
    accelerator.backward(model(torch::ones({1, 2})).sum());
    EXPECT_EQ(calls.before_forward, i);
    EXPECT_EQ(calls.before_backward, i);
    EXPECT_EQ(calls.after_backward, i);
  }
}

TEST(Extensions, AStrategyThatDoesNotApplyIsPassedOver) {
  StrategyEntry entry = counting_strategy();
  entry.refusal = [](const World&) -> std::optional<std::string> { return "it is Monday"; };
  Accelerator accelerator({.extensions = {.strategies = {entry}}});
  EXPECT_EQ(accelerator.plan().at("strategy").value, "single");
}

TEST(Extensions, AStrategyOfABuiltInNameIsRefused) {
  StrategyEntry entry = counting_strategy();
  entry.name = "single";
  const AcceleratorOptions options{.extensions = {.strategies = {entry}}};
  EXPECT_THAT([&] { Accelerator accelerator(options); },
              ThrowsError<ConfigError>({.place = "extensions",
                                        .what = "the same name",
                                        .got = "strategy \"single\" twice",
                                        .expected = "names other than \"ddp\", \"single\"",
                                        .remedy = "Rename"}));
}

TEST(Extensions, AnotherAcceleratorDoesNotKnowThem) {
  Accelerator with({.mixed_precision = "mine", .extensions = {.precisions = {precision_named("mine")}}});
  EXPECT_THROW(Accelerator({.mixed_precision = "mine"}), ConfigError);
  EXPECT_EQ(with.mixed_precision(), "mine");
}

}  // namespace
}  // namespace accelerate
