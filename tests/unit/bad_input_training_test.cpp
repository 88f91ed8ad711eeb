// What a user gets wrong around training, and what the message says: place, got, expected, remedy.
#include "accelerate/strategy/strategy.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::ConfigError;
using accelerate::UsageError;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

TEST(BadOptions, AccumulationGivenTwice) {
  expect_error<ConfigError>(
      [] {
        Accelerator({.gradient_accumulation_steps = 2,
                     .gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{.num_steps = 3}});
      },
      {"gradient_accumulation_plugin",
       ".gradient_accumulation_steps = 2 and .gradient_accumulation_plugin.num_steps = 3", "one of the two",
       "set its num_steps"});
}

TEST(BadOptions, AccumulationOfZeroOrLess) {
  for (const int64_t steps : {0, -4}) {
    expect_error<ConfigError>([&] { Accelerator({.gradient_accumulation_steps = steps}); },
                              {"gradient_accumulation_steps", std::to_string(steps) + " (argument)", "1 or more",
                               "an update after every batch"});
    expect_error<ConfigError>(
        [&] {
          Accelerator({.gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{.num_steps = steps}});
        },
        {"gradient_accumulation_steps", std::to_string(steps) + " (argument)", "1 or more",
         "an update after every batch"});
  }
}

/// One environment variable for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(BadEnvironment, AccumulationThatIsNoNumber) {
  const Variable variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "four");
  expect_error<ConfigError>([] { Accelerator(); },
                            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "\"four\"", "digits", "Correct or unset it"});
  EXPECT_NO_THROW(Accelerator({.gradient_accumulation_steps = 2})) << "an argument does not ask the environment";
}

TEST(BadEnvironment, AccumulationOfZeroNamesTheVariable) {
  const Variable variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "0");
  expect_error<ConfigError>([] { Accelerator(); },
                            {"gradient_accumulation_steps", "0 (environment ACCELERATE_GRADIENT_ACCUMULATION_STEPS)",
                             "1 or more", "an update after every batch"});
}

TEST(BadEnvironment, AnUnknownPrecisionNamesTheVariable) {
  const Variable variable("ACCELERATE_MIXED_PRECISION", "half");
  expect_error<ConfigError>([] { Accelerator(); },
                            {"mixed_precision", "\"half\" (environment ACCELERATE_MIXED_PRECISION)", "\"bf16\"",
                             "ACCELERATE_MIXED_PRECISION"});
}

TEST(BadEnvironment, ALauncherOfSeveralProcesses) {
  const Variable variable("WORLD_SIZE", "4");
  expect_error<ConfigError>([] { Accelerator(); }, {"environment", "WORLD_SIZE=4 without RANK", "both", "Set RANK"});
}

TEST(BadEnvironment, AnEngineThatIsNotThere) {
  const Variable variable("ACCELERATE_USE_FSDP", "true");
  expect_error<ConfigError>([] { Accelerator(); }, {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_FSDP=true", "it unset",
                                                    "unset ACCELERATE_USE_FSDP"});
}

TEST(BadLoop, AVerbAfterTheEndSaysWhatStillWorks) {
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  accelerator.end_training();
  expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step(); },
                           {"optimizer.step", "after end_training()", "it before", "inference still works"});
  EXPECT_EQ(model(make_batch(2, 1).x).size(0), 2);
}

TEST(BadLoop, LibTorchsShapeErrorsComeOutUnchangedAndTheLoopGoesOn) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  for (int i = 0; i < 2; ++i) {
    const auto step = [&, &model = model](int64_t columns) {
      auto window = accelerator.accumulate(model);
      accelerator.backward(model(torch::ones({2, columns}, torch::kDouble)).mean());
    };
    EXPECT_THROW(step(5), c10::Error);
    EXPECT_NO_THROW(step(4));
  }
}

/// A strategy of a host program's own that refuses a model, or a backward.
enum class Fails { kAttach, kFinish };
template <Fails where>
class Failing final : public accelerate::Strategy {
 public:
  accelerate::ParameterTable attach(const accelerate::AttachContext&) override {
    if (where == Fails::kAttach) throw UsageError({.place = "own strategy", .what = "It does not take this model"});
    return {};
  }
  void before_backward(const at::Tensor&, accelerate::GradientSync) override {}
  void after_backward() override { throw UsageError({.place = "own strategy", .what = "A parameter got no gradient"}); }
  void save(accelerate::StateWriter&) const override {}
  void load(accelerate::StateReader&) override {}
};

template <Fails where>
AcceleratorOptions with_failing_strategy() {
  AcceleratorOptions options;
  options.extensions.strategies.push_back(
      {"failing", 10, [](const accelerate::World&) -> std::optional<std::string> { return std::nullopt; },
       [](const std::any&) -> std::unique_ptr<accelerate::Strategy> { return std::make_unique<Failing<where>>(); }});
  return options;
}

TEST(OwnStrategy, ThatRefusesAModelLeavesNothingPrepared) {
  Accelerator accelerator(with_failing_strategy<Fails::kAttach>());
  EXPECT_EQ(accelerator.plan().at("strategy").value, "failing");
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 1.0);
  EXPECT_THROW(accelerator.prepare(net, std::move(sgd), accelerate::constant({.warmup_steps = 5})), UsageError);
  ASSERT_EQ(sgd.param_groups().size(), 1u) << "an optimizer given by value is taken only when nothing can fail";
  EXPECT_DOUBLE_EQ(training::learning_rate(sgd), 1.0);
}

TEST(OwnStrategy, ThatDidNotFinishFailsTheBackward) {
  Accelerator accelerator(with_failing_strategy<Fails::kFinish>());
  auto model = accelerator.prepare(Mlp(1));
  const auto [x, y] = make_batch(2, 1);
  const auto loss = mse(model(x), y);
  EXPECT_THROW(accelerator.backward(loss), UsageError);
}

TEST(OwnPlugIns, AKnownNameIsRefusedNotReplaced) {
  AcceleratorOptions options;
  options.extensions.precisions.push_back(
      {"bf16", [](c10::Device) -> std::optional<std::string> { return std::nullopt; }, {}});
  expect_error<ConfigError>([&] { Accelerator accelerator(options); },
                            {"extensions", "\"bf16\" twice", "names other than", "Rename"});
}

TEST(OwnPlugIns, APrecisionOfTheHostProgram) {
  AcceleratorOptions options{.mixed_precision = "half_out"};
  options.extensions.precisions.push_back({"half_out",
                                           [](c10::Device) -> std::optional<std::string> { return std::nullopt; },
                                           {.compute = at::kBFloat16, .output = at::kDouble}});
  Accelerator accelerator(options);
  auto model = accelerator.prepare(Mlp(1, torch::kFloat));
  EXPECT_EQ(model(make_batch(2, 1, torch::kFloat).x).scalar_type(), torch::kDouble);
}

}  // namespace
