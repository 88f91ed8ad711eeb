#include "accelerate/launch/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "accelerate/core/error.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;

const Environment kNothing({});
constexpr Machine kEightCores{.cores = 8, .gpus = 0};

LaunchOptions with_program(LaunchOptions options) {
  options.program = {"./train", "--lr", "1"};
  return options;
}

std::string refusal(const LaunchOptions& options, const Machine& machine = kEightCores,
                    const Environment& environment = kNothing) {
  try {
    plan_launch(options, environment, machine);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(LaunchPlan, OneMachineSetsTheVariablesOfTorchrun) {
  const LaunchPlan plan = plan_launch(with_program({.num_processes = 2}), kNothing, kEightCores);
  const std::map<std::string, std::string> expected{{"RANK", "1"},
                                                    {"LOCAL_RANK", "1"},
                                                    {"WORLD_SIZE", "2"},
                                                    {"LOCAL_WORLD_SIZE", "2"},
                                                    {"GROUP_RANK", "0"},
                                                    {"GROUP_WORLD_SIZE", "1"},
                                                    {"ROLE_RANK", "1"},
                                                    {"ROLE_WORLD_SIZE", "2"},
                                                    {"ROLE_NAME", "default"},
                                                    {"MASTER_ADDR", "127.0.0.1"},
                                                    {"MASTER_PORT", "0"},
                                                    {"OMP_NUM_THREADS", "4"},
                                                    {"TORCHELASTIC_USE_AGENT_STORE", "False"}};
  ASSERT_EQ(plan.ranks.size(), 2u);
  EXPECT_EQ(plan.ranks[1].variables, expected);
  EXPECT_EQ(plan.program, (std::vector<std::string>{"./train", "--lr", "1"}));
  EXPECT_EQ(plan.reserve, 0);
}

TEST(LaunchPlan, ThePortThatWasFoundReachesEveryRank) {
  LaunchPlan plan = plan_launch(with_program({.num_processes = 3}), kNothing, kEightCores);
  plan.set_port(4711);
  for (const RankPlan& rank : plan.ranks) EXPECT_EQ(rank.variables.at("MASTER_PORT"), "4711");
}

RC_GTEST_PROP(LaunchPlan, MachinesTogetherHaveEveryRankOnce, ()) {
  const int64_t machines = *rc::gen::inRange(1, 9), each = *rc::gen::inRange(1, 9);
  std::set<std::string> ranks;
  for (int64_t machine = 0; machine < machines; ++machine) {
    const LaunchPlan plan = plan_launch(with_program({.num_processes = machines * each,
                                                      .num_machines = machines,
                                                      .machine_rank = machine,
                                                      .main_process_ip = "10.0.0.1",
                                                      .main_process_port = 29500}),
                                        kNothing, kEightCores);
    RC_ASSERT(static_cast<int64_t>(plan.ranks.size()) == each);
    RC_ASSERT(plan.reserve.has_value() == (machine == 0));
    for (int64_t local = 0; local < each; ++local) {
      const auto& variables = plan.ranks[local].variables;
      RC_ASSERT(variables.at("LOCAL_RANK") == std::to_string(local));
      RC_ASSERT(variables.at("WORLD_SIZE") == std::to_string(machines * each));
      RC_ASSERT(variables.at("LOCAL_WORLD_SIZE") == std::to_string(each));
      RC_ASSERT(variables.at("GROUP_RANK") == std::to_string(machine));
      RC_ASSERT(variables.at("GROUP_WORLD_SIZE") == std::to_string(machines));
      RC_ASSERT(variables.at("MASTER_ADDR") == "10.0.0.1");
      RC_ASSERT(variables.at("MASTER_PORT") == "29500");
      ranks.insert(variables.at("RANK"));
    }
  }
  RC_ASSERT(static_cast<int64_t>(ranks.size()) == machines * each);
  RC_ASSERT(ranks.count("0") == 1);
  RC_ASSERT(ranks.count(std::to_string(machines * each - 1)) == 1);
}

RC_GTEST_PROP(LaunchPlan, ThreadsAreSharedOutAndNoRankIsWithoutOne, ()) {
  const int64_t cores = *rc::gen::inRange(1, 65), processes = *rc::gen::inRange(2, 129);
  const LaunchPlan plan = plan_launch(with_program({.num_processes = processes}), kNothing, {.cores = cores});
  const int64_t threads = std::stoll(plan.ranks[0].variables.at("OMP_NUM_THREADS"));
  RC_ASSERT(threads >= 1);
  RC_ASSERT(threads == 1 || threads * processes <= cores);
  RC_ASSERT((threads + 1) * processes > cores);
}

TEST(LaunchPlan, ThreadsOfTheUserAreKept) {
  const Environment seven(std::map<std::string, std::string>{{"OMP_NUM_THREADS", "7"}});
  const auto threads = [](const LaunchOptions& options, const Environment& environment) {
    const LaunchPlan plan = plan_launch(with_program(options), environment, kEightCores);
    const auto found = plan.ranks[0].variables.find("OMP_NUM_THREADS");
    return found == plan.ranks[0].variables.end() ? "not set" : found->second;
  };
  EXPECT_EQ(threads({.num_processes = 2}, seven), "not set");
  EXPECT_EQ(threads({.num_processes = 2, .num_cpu_threads_per_process = 3}, seven), "3");
  EXPECT_EQ(threads({.num_processes = 1}, kNothing), "not set");
  EXPECT_EQ(threads({.num_processes = 1, .num_cpu_threads_per_process = 3}, kNothing), "3");
}

TEST(LaunchPlan, OptionsOfTheProgramBecomeItsVariables) {
  const LaunchPlan plan = plan_launch(
      with_program({.mixed_precision = "bf16", .gradient_accumulation_steps = 4, .cpu = true}), kNothing, kEightCores);
  const auto& variables = plan.ranks[0].variables;
  EXPECT_EQ(variables.at("ACCELERATE_MIXED_PRECISION"), "bf16");
  EXPECT_EQ(variables.at("ACCELERATE_GRADIENT_ACCUMULATION_STEPS"), "4");
  EXPECT_EQ(variables.at("ACCELERATE_USE_CPU"), "true");
  EXPECT_EQ(variables.at("ACCELERATE_TORCH_DEVICE"), "cpu");
  const LaunchPlan plain = plan_launch(with_program({}), kNothing, kEightCores);
  for (const char* name : {"ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_CPU",
                           "ACCELERATE_TORCH_DEVICE", "CUDA_VISIBLE_DEVICES"}) {
    EXPECT_EQ(plain.ranks[0].variables.count(name), 0u) << name;
  }
}

TEST(LaunchPlan, GraceHoldsForBothKindsOfEnd) {
  const LaunchPlan plan = plan_launch(with_program({.grace_period = std::chrono::seconds(2)}), kNothing, kEightCores);
  EXPECT_EQ(plan.grace_after_failure, std::chrono::seconds(2));
  EXPECT_EQ(plan.grace_after_signal, std::chrono::seconds(2));
  const LaunchPlan plain = plan_launch(with_program({}), kNothing, kEightCores);
  EXPECT_EQ(plain.grace_after_failure, std::chrono::seconds(5));
}

TEST(LaunchPlan, NumbersOutOfRangeAreRefused) {
  EXPECT_EQ(refusal(with_program({.num_processes = 0})),
            "[--num-processes] The number is out of range: got 0, expected a number from 1 to 1000000. Correct "
            "--num-processes.");
  EXPECT_THAT(refusal(with_program({.num_processes = -3})), HasSubstr("got -3"));
  EXPECT_THAT(refusal(with_program({.num_machines = 0})), HasSubstr("[--num-machines] The number is out of range"));
  EXPECT_THAT(refusal(with_program({.num_machines = 2, .machine_rank = 2})),
              HasSubstr("expected a number from 0 to 1"));
  EXPECT_THAT(refusal(with_program({.main_process_port = 65'536})), HasSubstr("from 0 to 65535"));
  EXPECT_THAT(refusal(with_program({.num_cpu_threads_per_process = 0})), HasSubstr("[--num-cpu-threads-per-process]"));
  EXPECT_THAT(refusal(with_program({.gradient_accumulation_steps = 0})), HasSubstr("[--gradient-accumulation-steps]"));
  EXPECT_THAT(refusal(with_program({.grace_period = std::chrono::seconds(-1)})), HasSubstr("[--grace-period]"));
}

TEST(LaunchPlan, HalfOfWhatSeveralMachinesNeedIsRefused) {
  EXPECT_EQ(
      refusal(with_program({.num_machines = 2, .machine_rank = 0})),
      "[--num-machines] Several machines cannot find each other with what was given: got 2 machines without "
      "--main-process-ip, --main-process-port, expected --machine-rank of this machine, and the address and port of "
      "machine 0, the same on all. Add --main-process-ip, --main-process-port.");
  EXPECT_THAT(
      refusal(with_program({.num_machines = 2, .machine_rank = 0, .main_process_ip = "a", .main_process_port = 0})),
      HasSubstr("got 2 machines without --main-process-port"));
  EXPECT_THAT(refusal(with_program({.machine_rank = 1})), HasSubstr("got --machine-rank without --num-machines"));
  EXPECT_THAT(refusal(with_program({.main_process_ip = "10.0.0.1"})),
              HasSubstr("got --main-process-ip without --num-machines"));
  EXPECT_EQ(refusal(with_program({.num_machines = 1, .machine_rank = 0})), "");
}

TEST(LaunchPlan, ProcessesAreAMultipleOfMachines) {
  EXPECT_EQ(
      refusal(with_program(
          {.num_processes = 5, .num_machines = 2, .machine_rank = 0, .main_process_ip = "a", .main_process_port = 1})),
      "[--num-processes] The processes cannot be shared out evenly; their number counts all machines: got 5 for 2 "
      "machines, expected a multiple of --num-machines. Type --num-processes 6.");
}

TEST(LaunchPlan, AProgramIsNeeded) {
  EXPECT_EQ(refusal({.num_processes = 2}),
            "[launch] There is no program to start: got options only, expected a program after the options. Type: "
            "accelerate-cpp launch --num-processes 2 ./program.");
}

}  // namespace
}  // namespace accelerate::internal::launch
