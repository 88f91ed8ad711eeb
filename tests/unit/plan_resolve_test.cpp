// resolve(): what is decided from options and environment, which wins, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "accelerate/plan.h"
#include "tests/support/throws_error.h"

namespace accelerate::internal {
namespace {

using support::ThrowsError;
using ::testing::ElementsAre;

using Variables = std::map<std::string, std::string>;
Plan plan_of(const AcceleratorOptions& options = {}, Variables variables = {}, const Hardware& hardware = {}) {
  return resolve(options, Environment(std::move(variables)), hardware);
}

TEST(Resolve, Defaults) {
  const Plan plan = plan_of();
  EXPECT_EQ(plan.world, World{});
  EXPECT_EQ(plan.device, c10::Device(c10::kCPU));
  EXPECT_EQ(plan.precision.name, "no");
  EXPECT_FALSE(plan.precision.policy.compute.has_value());
  EXPECT_FALSE(plan.precision.policy.output.has_value());
  EXPECT_EQ(plan.strategy.name, "single");
  EXPECT_EQ(plan.accumulation.num_steps, 1);
  EXPECT_TRUE(plan.accumulation.sync_with_dataloader);
  EXPECT_TRUE(plan.step_scheduler_with_optimizer);
}

TEST(Resolve, TheDeviceIsAGpuWhereOneIsVisible) {
  const Plan plan = plan_of({.mixed_precision = "bf16"}, {}, {.cuda_devices = 2});
  EXPECT_EQ(plan.device, c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(plan.fields.at("device").value, "cuda:0");
  EXPECT_EQ(plan.fields.at("device").source, "local_process_index, of 2 visible GPUs");
  EXPECT_EQ(plan_of({.cpu = true}, {}, {.cuda_devices = 2}).device, c10::Device(c10::kCPU));
  EXPECT_EQ(plan_of({}, {{"ACCELERATE_USE_CPU", "true"}}, {.cuda_devices = 2}).device, c10::Device(c10::kCPU));
}

TEST(Resolve, EveryFieldSaysWhereItCameFrom) {
  EXPECT_EQ(plan_of().fields.text(),
            "num_processes                  1            (environment kind \"single\")\n"
            "process_index                  0            (environment kind \"single\")\n"
            "local_process_index            0            (environment kind \"single\")\n"
            "local_num_processes            1            (environment kind \"single\")\n"
            "device                         cpu          (default)\n"
            "strategy                       single       (applies to 1 process)\n"
            "mixed_precision                no           (default)\n"
            "compute_dtype                  as given     (mixed_precision \"no\")\n"
            "output_dtype                   as computed  (mixed_precision \"no\")\n"
            "loss_scaling                   none         (mixed_precision \"no\")\n"
            "gradient_accumulation_steps    1            (default)\n"
            "sync_with_dataloader           true         (default)\n"
            "adjust_scheduler               false        (default)\n"
            "sync_each_batch                false        (default)\n"
            "divide_by                      num_steps    (default)\n"
            "even_batches                   true         (default)\n"
            "split_batches                  false        (default)\n"
            "step_scheduler_with_optimizer  true         (default)\n"
            "cuda_graph                     off          (default)\n"
            "debug                          false        (default)\n"
            "device_placement               true         (default)\n"
            "use_seedable_sampler           true         (default)\n"
            "data_seed                      unset        (default)\n"
            "non_blocking                   true         (default)\n"
            "rng_types                      generator    (default)\n"
            "autocast                       on           (default)\n"
            "project_dir                    none         (default)\n"
            "logging_dir                    none         (default)\n"
            "log_level                      default      (default)\n"
            "float32_matmul_precision       unset        (default)\n"
            "cuda_matmul_allow_tf32         unset        (default)\n"
            "cudnn_allow_tf32               unset        (default)\n");
}

TEST(Resolve, ThePrecisionComesFromTheArgumentThenTheEnvironment) {
  const Variables bf16{{"ACCELERATE_MIXED_PRECISION", "bf16"}};
  EXPECT_EQ(plan_of({.mixed_precision = "bf16"}).precision.name, "bf16");
  EXPECT_EQ(plan_of({.mixed_precision = "bf16"}).fields.at("mixed_precision").source, "argument");
  EXPECT_EQ(plan_of({}, bf16).precision.name, "bf16");
  EXPECT_EQ(plan_of({}, bf16).fields.at("mixed_precision").source, "environment ACCELERATE_MIXED_PRECISION");
  EXPECT_EQ(plan_of({.mixed_precision = "no"}, bf16).precision.name, "no");
  EXPECT_EQ(plan_of({.mixed_precision = "no"}, bf16).fields.at("mixed_precision").source, "argument");
  EXPECT_EQ(plan_of({.mixed_precision = "bf16"}).precision.policy.compute, at::kBFloat16);
  EXPECT_EQ(plan_of({.mixed_precision = "bf16"}).fields.at("compute_dtype").value, "BFloat16");
  EXPECT_EQ(plan_of({.mixed_precision = "bf16"}).fields.at("output_dtype").value, "Float");
}

RC_GTEST_PROP(ResolveProperty, AccumulationIsTheArgumentElseTheVariableElseOne, ()) {
  const auto positive = rc::gen::inRange<int64_t>(1, 1'000'000);
  auto argument = *rc::gen::maybe(positive);
  auto plugin = *rc::gen::maybe(positive);
  const auto variable = *rc::gen::maybe(positive);
  if (argument && plugin) (*rc::gen::arbitrary<bool>() ? argument : plugin).reset();
  AcceleratorOptions options;
  Variables variables;
  if (argument) options.gradient_accumulation_steps = *argument;
  if (plugin) options.gradient_accumulation_plugin = GradientAccumulationPlugin{.num_steps = *plugin};
  if (variable) variables["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = std::to_string(*variable);
  const Plan plan = plan_of(options, variables);
  const int64_t expected = argument ? *argument : plugin ? *plugin : variable ? *variable : 1;
  RC_ASSERT(plan.accumulation.num_steps == expected);
  const Field& field = plan.fields.at("gradient_accumulation_steps");
  RC_ASSERT(field.value == std::to_string(expected));
  RC_ASSERT(field.source == (argument || plugin ? "argument"
                             : variable         ? "environment ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
                                                : "default"));
}

TEST(Resolve, ThePluginCarriesItsOtherFieldsTooInTheOriginalsOrder) {
  const Plan plan = plan_of({.gradient_accumulation_plugin = GradientAccumulationPlugin{3, true, false}});
  EXPECT_EQ(plan.accumulation.num_steps, 3);
  EXPECT_TRUE(plan.accumulation.adjust_scheduler);
  EXPECT_EQ(plan.fields.at("adjust_scheduler").value, "true");
  EXPECT_EQ(plan.fields.at("adjust_scheduler").source, "argument");
  EXPECT_FALSE(plan.accumulation.sync_with_dataloader);
  EXPECT_EQ(plan.fields.at("sync_with_dataloader").value, "false");
  EXPECT_EQ(plan.fields.at("sync_with_dataloader").source, "argument");
}

TEST(Resolve, StepSchedulerWithOptimizer) {
  const Plan plan = plan_of({.step_scheduler_with_optimizer = false});
  EXPECT_FALSE(plan.step_scheduler_with_optimizer);
  EXPECT_EQ(plan.fields.at("step_scheduler_with_optimizer").value, "false");
  EXPECT_EQ(plan.fields.at("step_scheduler_with_optimizer").source, "argument");
  const Plan chosen = plan_of({.step_scheduler_with_optimizer = true});
  EXPECT_TRUE(chosen.step_scheduler_with_optimizer);
  EXPECT_EQ(chosen.fields.at("step_scheduler_with_optimizer").source, "argument") << "also when it is the default";
}

TEST(Resolve, TheSameInputsGiveTheSamePlan) {
  const AcceleratorOptions options{.mixed_precision = "bf16", .gradient_accumulation_steps = 3};
  EXPECT_EQ(plan_of(options).fields.text(), plan_of(options).fields.text());
}

TEST(Resolve, HowLoadersShareDataIsTheArgument) {
  const AcceleratorOptions ragged{.dataloader_config = DataLoaderConfiguration{.even_batches = false}};
  EXPECT_FALSE(plan_of(ragged).data.even_batches);
  EXPECT_FALSE(plan_of(ragged).data.split_batches);
  EXPECT_EQ(plan_of(ragged).fields.at("even_batches").value, "false");
  EXPECT_EQ(plan_of(ragged).fields.at("split_batches").source, "argument");
  EXPECT_TRUE(plan_of().data.even_batches);
}

TEST(Resolve, DebugModeIsAVariable) {
  EXPECT_FALSE(plan_of().debug);
  EXPECT_TRUE(plan_of({}, {{"ACCELERATE_DEBUG_MODE", "true"}}).debug);
  EXPECT_EQ(plan_of({}, {{"ACCELERATE_DEBUG_MODE", "true"}}).fields.at("debug").source,
            "environment ACCELERATE_DEBUG_MODE");
  EXPECT_THROW(plan_of({}, {{"ACCELERATE_DEBUG_MODE", "perhaps"}}), ConfigError);
}

TEST(Resolve, VariablesOfNobodysConcernChangeNothing) {
  const Variables noise{{"ACCELERATE_SOMETHING", "1"}, {"PATH", "/bin"}, {"OMP_NUM_THREADS", "4"}};
  EXPECT_EQ(plan_of({}, noise).fields.text(), plan_of().fields.text());
}

// What is refused.

TEST(ResolveErrors, AnUnknownPrecisionIsAnsweredWithTheKnownOnes) {
  EXPECT_THAT(
      [] { plan_of({.mixed_precision = "fp17"}); },
      ThrowsError<ConfigError>({.place = "mixed_precision",
                                .what = "The precision is not known",
                                .got = "\"fp17\" (argument)",
                                .expected = "one of \"bf16\", \"bf16_master\", \"bf16_stochastic\", \"fp16\", \"no\"",
                                .remedy = "Set AcceleratorOptions::mixed_precision or ACCELERATE_MIXED_PRECISION"}));
  EXPECT_THAT(
      [] {
        plan_of({}, {{"ACCELERATE_MIXED_PRECISION", "BF16"}});
      },
      ThrowsError<ConfigError>({.place = "mixed_precision",
                                .what = "The precision is not known",
                                .got = "\"BF16\" (environment ACCELERATE_MIXED_PRECISION)",
                                .expected = "\"bf16\"",
                                .remedy = "ACCELERATE_MIXED_PRECISION"}));
}

TEST(ResolveErrors, APrecisionThatTheDeviceCannotDo) {
  accelerate::PrecisionEntry nine{
      "int9", [](c10::Device) { return std::optional<std::string>("it has no ninth bit"); }, {}};
  EXPECT_THAT([&] { plan_of({.mixed_precision = "int9", .extensions = {.precisions = {nine}}}); },
              ThrowsError<ConfigError>(
                  {.place = "mixed_precision",
                   .what = "it has no ninth bit",
                   .got = "\"int9\" (argument) on device \"cpu\"",
                   .expected = "a precision that the device has",
                   .remedy = "Choose one of \"bf16\", \"bf16_master\", \"bf16_stochastic\", \"fp16\", \"no\""}));
}

TEST(Resolve, ThePlanTellsHowLossesAreScaled) {
  const auto scaling = [](accelerate::AcceleratorOptions options) {
    return plan_of(std::move(options)).fields.at("loss_scaling").value;
  };
  EXPECT_EQ(scaling({.mixed_precision = "fp16"}), "from 65536, x 2 after 2000 updates, x 0.5 after one left out");
  EXPECT_EQ(scaling({.mixed_precision = "fp16", .scaler_handler = accelerate::GradScalerKwargs{.enabled = false}}),
            "off");
  EXPECT_EQ(scaling({.mixed_precision = "bf16"}), "none");
}

TEST(ResolveErrors, AccumulationThatIsNotPositive) {
  for (const int64_t steps : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min()}) {
    const std::string number = std::to_string(steps);
    const auto refusal = [&](const std::string& source) {
      return ThrowsError<ConfigError>({.place = "gradient_accumulation_steps",
                                       .what = "The number of accumulation steps is not positive",
                                       .got = number + " (" + source + ")",
                                       .expected = "1 or more",
                                       .remedy = "Use 1 for an update after every batch"});
    };
    EXPECT_THAT([&] { plan_of({.gradient_accumulation_steps = steps}); }, refusal("argument"));
    EXPECT_THAT([&] { plan_of({.gradient_accumulation_plugin = GradientAccumulationPlugin{.num_steps = steps}}); },
                refusal("argument"));
    EXPECT_THAT(
        [&] {
          plan_of({}, {{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", number}});
        },
        refusal("environment ACCELERATE_GRADIENT_ACCUMULATION_STEPS"));
  }
}

TEST(ResolveErrors, AccumulationGivenTwiceAlsoWhenBothAgree) {
  for (const int64_t steps : {2, 3}) {
    EXPECT_THAT(
        [&] {
          plan_of({.gradient_accumulation_steps = 2,
                   .gradient_accumulation_plugin = GradientAccumulationPlugin{.num_steps = steps}});
        },
        ThrowsError<ConfigError>(
            {.place = "gradient_accumulation_plugin",
             .what = "given twice",
             .got = ".gradient_accumulation_steps = 2 and .gradient_accumulation_plugin.num_steps = " +
                    std::to_string(steps),
             .expected = "one of the two",
             .remedy = "Keep .gradient_accumulation_plugin"}));
  }
}

TEST(ResolveErrors, AVariableThatIsNoNumber) {
  EXPECT_THAT(
      [] {
        plan_of({}, {{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "four"}});
      },
      ThrowsError<ConfigError>({.place = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
                                .what = "not an integer",
                                .got = "\"four\"",
                                .expected = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=1",
                                .remedy = "Correct or unset it"}));
}

TEST(ResolveErrors, EnginesOfTheOriginalsLauncher) {
  for (const std::string name : {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM"}) {
    for (const std::string value : {"true", "1", "YES"}) {
      EXPECT_THAT(
          [&] {
            plan_of({}, {{name, value}});
          },
          ThrowsError<ConfigError>({.place = name,
                                    .what = "a training engine that is not available",
                                    .got = name + "=" + value,
                                    .expected = "it unset",
                                    .remedy = "unset " + name}))
          << value;
    }
    EXPECT_EQ(plan_of({}, {{name, "false"}}).fields.text(), plan_of().fields.text());
    EXPECT_THROW(plan_of({}, {{name, "perhaps"}}), ConfigError);
  }
}

TEST(ResolveErrors, ALauncherThatSaidNoAddress) {
  EXPECT_THAT(
      [] {
        plan_of({}, {{"WORLD_SIZE", "4"}, {"RANK", "1"}});
      },
      ThrowsError<ConfigError>({.place = "environment \"torchrun\"",
                                .what = "The processes have no place to meet",
                                .got = "4 processes and no MASTER_ADDR",
                                .expected = "an address that every process can reach",
                                .remedy = "export MASTER_ADDR="}));
}

}  // namespace
}  // namespace accelerate::internal
