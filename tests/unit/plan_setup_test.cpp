// What surrounds the loop: options, variables, which wins, where it shows, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>

#include "accelerate/core/kernel.h"
#include "accelerate/plan.h"
#include "tests/support/throws_error.h"

namespace accelerate::internal {
namespace {

using support::ThrowsError;
using Variables = std::map<std::string, std::string>;

Plan plan_of(const AcceleratorOptions& options = {}, Variables variables = {}, const Hardware& hardware = {}) {
  return resolve(options, Environment(std::move(variables)), hardware);
}

Field field(const Plan& plan, const char* name) { return plan.fields.at(name); }

TEST(Setup, ArgumentsCountAndSaySo) {
  const Plan plan = plan_of({.dataloader_config = DataLoaderConfiguration{.data_seed = 7, .non_blocking = false},
                             .device_placement = false,
                             .rng_types = {"torch", "generator"},
                             .project_dir = "run",
                             .autocast_handler = AutocastKwargs{.enabled = false, .cache_enabled = false}});
  EXPECT_FALSE(plan.setup.device_placement);
  EXPECT_EQ(field(plan, "device_placement").value, "false");
  EXPECT_EQ(field(plan, "device_placement").source, "argument");
  EXPECT_EQ(plan.data.data_seed, 7u);
  EXPECT_EQ(field(plan, "data_seed").value, "7");
  EXPECT_EQ(field(plan, "non_blocking").value, "false");
  EXPECT_EQ(field(plan, "non_blocking").source, "argument");
  EXPECT_EQ(field(plan, "rng_types").value, "torch, generator");
  EXPECT_EQ(field(plan, "rng_types").source, "argument");
  EXPECT_EQ(field(plan, "autocast").value, "off");
  EXPECT_FALSE(plan.precision.policy.autocast.enabled);
  EXPECT_EQ(plan.precision.policy.autocast.cache_enabled, false);
  EXPECT_EQ(field(plan, "project_dir").value, "run");
  EXPECT_EQ(field(plan, "logging_dir").value, "run");
  EXPECT_EQ(field(plan, "logging_dir").source, "project_dir");
}

TEST(Setup, RandomStatesThatAreNotKnownOrNotThere) {
  EXPECT_TRUE(plan_of({.rng_types = std::vector<std::string>{}}).setup.rng_types.empty());
  EXPECT_EQ(field(plan_of({.rng_types = std::vector<std::string>{}}), "rng_types").value, "none");
  EXPECT_THAT(
      [] {
        plan_of({.rng_types = {"torch", "xpu"}});
      },
      ThrowsError<ConfigError>({.place = "rng_types",
                                .what = "no random state of this name",
                                .got = "\"xpu\"",
                                .expected = "\"torch\", \"cuda\" or \"generator\"",
                                .remedy = "AcceleratorOptions::rng_types"}));
  EXPECT_THAT(
      [] {
        plan_of({.rng_types = {"cuda", "torch"}});
      },
      ThrowsError<ConfigError>({.place = "rng_types",
                                .what = "the device is \"cpu\"",
                                .got = "\"cuda\"",
                                .expected = "\"torch\"",
                                .remedy = "leave it out"}));
  EXPECT_EQ(plan_of({.rng_types = {"cuda", "torch"}}, {}, {.cuda_devices = 1}).setup.rng_types.size(), 2u);
}

TEST(Setup, ADataSeedThatNothingWouldUse) {
  EXPECT_THAT(
      [] { plan_of({.dataloader_config = DataLoaderConfiguration{.use_seedable_sampler = false, .data_seed = 3}}); },
      ThrowsError<ConfigError>({.place = "data_seed",
                                .what = "Nothing would use",
                                .got = ".data_seed = 3 and .use_seedable_sampler = false",
                                .expected = "one of the two",
                                .remedy = "use_seedable_sampler"}));
}

TEST(Setup, ProjectFolders) {
  const auto project = [](AcceleratorOptions options) { return plan_of(options).setup.project; };
  EXPECT_FALSE(project({}).project_dir.has_value());
  EXPECT_EQ(project({.project_config = ProjectConfiguration{.project_dir = "a"}}).logging_dir, "a");
  EXPECT_EQ(project({.project_dir = "a", .project_config = ProjectConfiguration{.logging_dir = "b"}}).project_dir, "a");
  EXPECT_EQ(project({.project_dir = "a", .project_config = ProjectConfiguration{.logging_dir = "b"}}).logging_dir, "b");
  EXPECT_EQ(project({.project_dir = "a", .project_config = ProjectConfiguration{.project_dir = "a"}}).project_dir, "a");
  EXPECT_THAT([&] { project({.project_dir = "a", .project_config = ProjectConfiguration{.project_dir = "b"}}); },
              ThrowsError<ConfigError>({.place = "project_dir",
                                        .what = "given twice",
                                        .got = ".project_dir = \"a\" and .project_config.project_dir = \"b\"",
                                        .expected = "one of the two",
                                        .remedy = "Keep the one"}));
  EXPECT_THAT([&] { project({.project_config = ProjectConfiguration{.total_limit = 0}}); },
              ThrowsError<ConfigError>({.place = "project_config",
                                        .what = "too small",
                                        .got = ".total_limit = 0",
                                        .expected = "1 or more",
                                        .remedy = "leave it out"}));
  EXPECT_THAT([&] { project({.project_config = ProjectConfiguration{.iteration = -1}}); },
              ThrowsError<ConfigError>({.place = "project_config",
                                        .what = "too small",
                                        .got = ".iteration = -1",
                                        .expected = "0 or more",
                                        .remedy = "leave it out"}));
}

TEST(Setup, TheLogLevelOfArgumentAndEnvironment) {
  EXPECT_EQ(plan_of().setup.log_level, std::nullopt);
  const Variables info{{"ACCELERATE_LOG_LEVEL", "INFO"}};
  EXPECT_EQ(plan_of({}, info).setup.log_level, LogLevel::kInfo);
  EXPECT_EQ(field(plan_of({}, info), "log_level").source, "environment ACCELERATE_LOG_LEVEL");
  EXPECT_EQ(plan_of({.log_level = "error"}, info).setup.log_level, LogLevel::kError);
  EXPECT_EQ(field(plan_of({.log_level = "error"}, info), "log_level").source, "argument");
  EXPECT_EQ(plan_of({.log_level = "warning"}).setup.log_level, LogLevel::kWarning);
  EXPECT_THAT(
      [] {
        plan_of({}, {{"ACCELERATE_LOG_LEVEL", "loud"}});
      },
      ThrowsError<ConfigError>({.place = "ACCELERATE_LOG_LEVEL",
                                .what = "not known",
                                .got = "\"loud\"",
                                .expected = "debug, info, warning, error or critical",
                                .remedy = "unset it"}));
}

TEST(Setup, AnAffinityThatIsNotDoneIsSaidWhereThereIsAGpu) {
  const Variables pinned{{"ACCELERATE_CPU_AFFINITY", "1"}};
  EXPECT_TRUE(plan_of({}, pinned).setup.warnings.empty());
  EXPECT_TRUE(plan_of({}, {}, {.cuda_devices = 1}).setup.warnings.empty());
  EXPECT_THAT(plan_of({}, pinned, {.cuda_devices = 1}).setup.warnings,
              testing::ElementsAre(testing::HasSubstr("ACCELERATE_CPU_AFFINITY")));
  EXPECT_THROW(plan_of({}, {{"ACCELERATE_CPU_AFFINITY", "near"}}), ConfigError);
}

TEST(Setup, EnginesAndCompilersThatAreNotHere) {
  for (const char* name : {"ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_USE_SAGEMAKER", "ACCELERATE_USE_FSDP"}) {
    EXPECT_THAT(
        [&] {
          plan_of({}, {{name, "true"}});
        },
        ThrowsError<ConfigError>(
            {.place = name, .what = "a training engine", .got = "=true", .expected = "unset", .remedy = "unset"}));
    EXPECT_NO_THROW(plan_of({}, {{name, "false"}}));
  }
  EXPECT_NO_THROW(plan_of({}, {{"ACCELERATE_DYNAMO_BACKEND", "NO"}}));
  EXPECT_THAT(
      [] {
        plan_of({}, {{"ACCELERATE_DYNAMO_BACKEND", "inductor"}});
      },
      ThrowsError<ConfigError>({.place = "ACCELERATE_DYNAMO_BACKEND",
                                .what = "a compiler that is not available",
                                .got = "inductor",
                                .expected = "no",
                                .remedy = "unset ACCELERATE_DYNAMO_BACKEND"}));
}

TEST(TorchDevice, ChoosesUnlessTheArgumentSaysTheOpposite) {
  const Hardware gpus{.cuda_devices = 3};
  const auto device = [&](const std::string& text, AcceleratorOptions options = {}, Variables more = {}) {
    more["ACCELERATE_TORCH_DEVICE"] = text;
    return plan_of(options, more, gpus).device;
  };
  const c10::Device cpu(c10::kCPU);
  EXPECT_EQ(device("cuda:2"), c10::Device(c10::kCUDA, 2));
  EXPECT_EQ(device("cuda"), c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(device("cpu"), cpu);
  EXPECT_EQ(device("cuda:2", {.cpu = true}), cpu);
  EXPECT_EQ(device("cuda:2", {.cpu = false}), c10::Device(c10::kCUDA, 2));
  EXPECT_EQ(device("cpu", {.cpu = false}), c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(device("cuda:1", {}, {{"ACCELERATE_USE_CPU", "true"}}), c10::Device(c10::kCUDA, 1));
  EXPECT_EQ(device("cuda", {}, {{"ACCELERATE_USE_CPU", "true"}}), c10::Device(c10::kCUDA, 0));
  const Plan plan = plan_of({}, {{"ACCELERATE_TORCH_DEVICE", "cuda:2"}}, gpus);
  EXPECT_EQ(field(plan, "device").value, "cuda:2");
  EXPECT_EQ(field(plan, "device").source, "environment ACCELERATE_TORCH_DEVICE");
}

TEST(TorchDevice, NamesOneThatExists) {
  const auto refuses = [](const std::string& what, const std::string& got, const std::string& expected) {
    return ThrowsError<ConfigError>(
        {.place = "ACCELERATE_TORCH_DEVICE", .what = what, .got = got, .expected = expected, .remedy = "unset"});
  };
  for (const char* text : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "cpu:64", "xpu:0", "CUDA"}) {
    EXPECT_THAT(
        [&] {
          plan_of({}, {{"ACCELERATE_TORCH_DEVICE", text}});
        },
        refuses("not known", "\"" + std::string(text) + "\"", "\"cuda:\" and a number"));
  }
  EXPECT_THAT([] { plan_of({}, {{"ACCELERATE_TORCH_DEVICE", "cuda"}}); }, refuses("no visible GPU", "cuda", "cpu"));
  EXPECT_THAT(
      [] {
        plan_of({}, {{"ACCELERATE_TORCH_DEVICE", "cuda:64"}}, {.cuda_devices = 4});
      },
      refuses("not visible", "cuda:64", "\"cuda:0\" to \"cuda:3\""));
  const Variables two{{"ACCELERATE_TORCH_DEVICE", "cuda:0"},
                      {"RANK", "0"},
                      {"WORLD_SIZE", "2"},
                      {"LOCAL_RANK", "0"},
                      {"LOCAL_WORLD_SIZE", "2"},
                      {"MASTER_ADDR", "localhost"}};
  EXPECT_THAT([&] { plan_of({}, two, {.cuda_devices = 4}); },
              refuses("The 2 processes of this host would share a GPU", "cuda:0", "gives each its own"));
}

TEST(KernelWarning, IsAboutOldLinux) {
  EXPECT_FALSE(kernel_warning({.system = "Linux", .release = "5.15.0-35-generic"}));
  EXPECT_FALSE(kernel_warning({.system = "Darwin", .release = "5.4.0-35-generic"}));
  const auto warning = kernel_warning({.system = "Linux", .release = "5.4.0-35-generic"});
  ASSERT_TRUE(warning);
  EXPECT_THAT(*warning, testing::HasSubstr("5.4.0"));
  EXPECT_THAT(*warning, testing::HasSubstr("5.5.0"));
  for (const char* odd : {"", "5", "5.4", "x.y.z", "5.4.", "5.4-rc1"}) {
    EXPECT_FALSE(kernel_warning({.system = "Linux", .release = odd})) << odd;
  }
  EXPECT_EQ(Kernel::of_host().system, "Linux");
}

}  // namespace
}  // namespace accelerate::internal
