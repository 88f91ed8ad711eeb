// print, on_main_process and what an Accelerator says about itself.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;

template <class F>
std::string printed(F&& action) {
  testing::internal::CaptureStdout();
  action();
  return testing::internal::GetCapturedStdout();
}

TEST(Print, ValuesOnOneLineSeparatedBySpaces) {
  const Accelerator accelerator;
  EXPECT_EQ(printed([&] { accelerator.print("epoch", 3, "loss", 0.5, 'x'); }), "epoch 3 loss 0.5 x\n");
  EXPECT_EQ(printed([&] { accelerator.print(); }), "\n");
  EXPECT_EQ(printed([&] { accelerator.print("one"); }), "one\n");
  EXPECT_EQ(printed([&] {
              accelerator.print("a");
              accelerator.print("b");
            }),
            "a\nb\n");
}

TEST(Print, TensorsAndThePlan) {
  const Accelerator accelerator;
  EXPECT_THAT(printed([&] { accelerator.print("mean:", torch::tensor(2.5)); }), testing::HasSubstr("mean: 2.5"));
  EXPECT_EQ(printed([&] { accelerator.print(accelerator.plan()); }), accelerator.plan().text() + "\n");
}

TEST(Print, NothingElseWritesToStandardOutput) {
  EXPECT_EQ(printed([] {
              Accelerator accelerator({.gradient_accumulation_steps = 2});
              training::Mlp net(1);
              auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters()));
              const auto [x, y] = training::make_batch(4, 1);
              auto window = accelerator.accumulate(model);
              accelerator.backward(training::mse(model(x), y));
              optimizer.step();
              accelerator.end_training();
            }),
            "");
}

TEST(OnMainProcess, PassesArgumentsAndResults) {
  const Accelerator accelerator;
  const auto add = accelerator.on_main_process([](int a, int b) { return a + b; });
  auto f = add;
  EXPECT_EQ(f(2, 3), 5);
  static_assert(std::is_same_v<decltype(f(2, 3)), int>);
  auto text = accelerator.on_main_process([](std::unique_ptr<int> owned) { return std::to_string(*owned); });
  EXPECT_EQ(text(std::make_unique<int>(7)), "7");
}

TEST(OnMainProcess, VoidFunctionsAndReferenceArguments) {
  const Accelerator accelerator;
  int calls = 0;
  auto count = accelerator.on_main_process([&](int& target, int by) { target += by; });
  static_assert(std::is_void_v<decltype(count(calls, 2))>);
  count(calls, 2);
  count(calls, 3);
  EXPECT_EQ(calls, 5);
}

// Another process has nothing to refer to, so a reference becomes a value.
TEST(OnMainProcess, AReferenceResultComesBackAsAValue) {
  const Accelerator accelerator;
  std::string name = "net";
  auto read = accelerator.on_main_process([&]() -> const std::string& { return name; });
  static_assert(std::is_same_v<decltype(read()), std::string>);
  EXPECT_EQ(read(), "net");
}

TEST(OnMainProcess, KeepsStateBetweenCallsAndTakesMembersAndMoveOnlyFunctions) {
  const Accelerator accelerator;
  auto next = accelerator.on_main_process([i = 0]() mutable { return ++i; });
  EXPECT_EQ(next(), 1);
  EXPECT_EQ(next(), 2);
  auto size = accelerator.on_main_process(&std::string::size);
  EXPECT_EQ(size(std::string("four")), 4u);
  auto owner = accelerator.on_main_process([owned = std::make_unique<int>(9)] { return *owned; });
  EXPECT_EQ(owner(), 9);
}

TEST(OnMainProcess, ExceptionsComeOut) {
  const Accelerator accelerator;
  auto fail = accelerator.on_main_process([]() -> int { throw std::logic_error("inside"); });
  EXPECT_THROW(fail(), std::logic_error);
}

TEST(State, OneProcessOnTheCpu) {
  const Accelerator accelerator;
  EXPECT_EQ(accelerator.num_processes(), 1);
  EXPECT_EQ(accelerator.process_index(), 0);
  EXPECT_EQ(accelerator.local_process_index(), 0);
  EXPECT_TRUE(accelerator.is_main_process());
  EXPECT_TRUE(accelerator.is_local_main_process());
  EXPECT_TRUE(accelerator.is_last_process());
  EXPECT_FALSE(accelerator.use_distributed());
  EXPECT_EQ(accelerator.device(), at::Device(at::kCPU));
  EXPECT_EQ(accelerator.mixed_precision(), "no");
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 1);
  EXPECT_TRUE(accelerator.sync_gradients());
}

TEST(State, FollowsTheOptions) {
  const Accelerator accelerator(
      {.mixed_precision = "bf16",
       .gradient_accumulation_plugin = accelerate::GradientAccumulationPlugin{.num_steps = 3}});
  EXPECT_EQ(accelerator.mixed_precision(), "bf16");
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 3);
}

/// One environment variable for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(PlanOfAnAccelerator, DefaultsSayThatTheyAreDefaults) {
  const Accelerator accelerator;
  const accelerate::Fields& plan = accelerator.plan();
  for (const char* name :
       {"mixed_precision", "gradient_accumulation_steps", "sync_with_dataloader", "step_scheduler_with_optimizer"}) {
    EXPECT_EQ(plan.at(name).source, "default") << name;
  }
  EXPECT_EQ(plan.at("mixed_precision").value, "no");
  EXPECT_EQ(plan.at("gradient_accumulation_steps").value, "1");
  EXPECT_EQ(plan.at("sync_with_dataloader").value, "true");
  EXPECT_EQ(plan.at("step_scheduler_with_optimizer").value, "true");
  EXPECT_EQ(plan.at("device").value, "cpu");
  EXPECT_EQ(plan.at("strategy").value, "single");
  EXPECT_EQ(plan.at("num_processes").value, "1");
}

TEST(PlanOfAnAccelerator, ArgumentsSayThatTheyAreArguments) {
  const Accelerator accelerator(
      {.mixed_precision = "bf16", .gradient_accumulation_steps = 4, .step_scheduler_with_optimizer = false});
  const accelerate::Fields& plan = accelerator.plan();
  EXPECT_EQ(plan.at("mixed_precision").value, "bf16");
  EXPECT_EQ(plan.at("mixed_precision").source, "argument");
  EXPECT_EQ(plan.at("compute_dtype").value, "BFloat16");
  EXPECT_EQ(plan.at("output_dtype").value, "Float");
  EXPECT_EQ(plan.at("gradient_accumulation_steps").value, "4");
  EXPECT_EQ(plan.at("gradient_accumulation_steps").source, "argument");
  EXPECT_EQ(plan.at("step_scheduler_with_optimizer").value, "false");
  EXPECT_EQ(plan.at("step_scheduler_with_optimizer").source, "argument");
}

TEST(PlanOfAnAccelerator, TheEnvironmentIsNamedAndAnArgumentWins) {
  const Variable precision("ACCELERATE_MIXED_PRECISION", "bf16");
  const Variable steps("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "6");
  const Accelerator from_environment;
  EXPECT_EQ(from_environment.plan().at("mixed_precision").value, "bf16");
  EXPECT_EQ(from_environment.plan().at("mixed_precision").source, "environment ACCELERATE_MIXED_PRECISION");
  EXPECT_EQ(from_environment.plan().at("gradient_accumulation_steps").source,
            "environment ACCELERATE_GRADIENT_ACCUMULATION_STEPS");
  EXPECT_EQ(from_environment.gradient_accumulation_steps(), 6);
  const Accelerator from_arguments({.mixed_precision = "no", .gradient_accumulation_steps = 2});
  EXPECT_EQ(from_arguments.mixed_precision(), "no");
  EXPECT_EQ(from_arguments.plan().at("mixed_precision").source, "argument");
  EXPECT_EQ(from_arguments.gradient_accumulation_steps(), 2);
}

TEST(PlanOfAnAccelerator, PrintsOneLineAFieldAndListsTheNamesOfAWrongOne) {
  const Accelerator accelerator;
  std::ostringstream out;
  out << accelerator.plan();
  const std::string text = out.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), static_cast<int64_t>(accelerator.plan().all().size()));
  for (const accelerate::Field& field : accelerator.plan().all()) {
    EXPECT_THAT(text, testing::HasSubstr(field.name));
    EXPECT_THAT(text, testing::HasSubstr("(" + field.source + ")"));
  }
  try {
    accelerator.plan().at("precision");
    FAIL();
  } catch (const accelerate::UsageError& error) {
    EXPECT_THAT(error.text().expected, testing::HasSubstr("mixed_precision"));
  }
}

}  // namespace
