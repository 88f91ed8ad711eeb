#include "accelerate/launch/gpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accelerate/core/env.h"
#include "accelerate/core/error.h"
#include "accelerate/launch/config.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;

LaunchOptions options(std::optional<std::string> ids) { return {.gpu_ids = std::move(ids), .program = {"./train"}}; }

Environment visible(const std::string& list) { return Environment({{"CUDA_VISIBLE_DEVICES", list}}); }

LaunchPlan plan_on(int64_t gpus, const LaunchOptions& options, const Environment& environment = Environment({})) {
  return plan_launch(options, environment, {.cores = 4, .gpus = gpus});
}

std::string refusal_on(int64_t gpus, const LaunchOptions& options, const Environment& environment = Environment({})) {
  try {
    plan_on(gpus, options, environment);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(LaunchGpus, WithoutANumberThereIsOneProcessPerVisibleGpu) {
  EXPECT_EQ(plan_on(0, options({})).ranks.size(), 1u);
  EXPECT_EQ(plan_on(4, options({})).ranks.size(), 4u);
  EXPECT_EQ(plan_on(4, options("0,3")).ranks.size(), 2u);
  EXPECT_EQ(plan_on(4, options("all")).ranks.size(), 4u);
  EXPECT_EQ(plan_on(4, options({}), visible("1,2,3")).ranks.size(), 3u);
  EXPECT_EQ(plan_on(4, options("all"), visible("1,2,3")).ranks.size(), 3u);
  LaunchOptions on_cpu = options({});
  on_cpu.cpu = true;
  EXPECT_EQ(plan_on(4, on_cpu).ranks.size(), 1u);
}

TEST(LaunchGpus, TheVariableIsReadAsCudaDoes) {
  EXPECT_EQ(plan_on(4, options({}), visible("2,9,1")).ranks.size(), 1u)
      << "the list ends at the first that is not there";
  EXPECT_EQ(plan_on(4, options({}), visible("-1")).ranks.size(), 1u) << "no GPU is left, so one process without";
  EXPECT_EQ(plan_on(4, options({}), visible("GPU-12ab,MIG-34cd")).ranks.size(), 2u);
  EXPECT_EQ(plan_on(0, options({}), visible("0,1")).ranks.size(), 1u) << "a machine without GPUs";
}

TEST(LaunchGpus, IdsBecomeTheVariableOfEveryRank) {
  const LaunchPlan plan = plan_on(4, options("1,3"), visible("0"));
  for (const RankPlan& rank : plan.ranks) EXPECT_EQ(rank.variables.at("CUDA_VISIBLE_DEVICES"), "1,3");
  EXPECT_EQ(plan_on(4, options("all"), visible("0,1")).ranks[0].variables.count("CUDA_VISIBLE_DEVICES"), 0u);
}

TEST(LaunchGpus, MoreProcessesThanGpusAreRefusedWithTheirNumber) {
  LaunchOptions five = options({});
  five.num_processes = 5;
  EXPECT_EQ(
      refusal_on(2, five),
      "[--num-processes] There are more processes on this machine than GPUs to use, one each: got 5 processes where "
      "2 GPUs are visible, expected at most 2. Start fewer, or add --cpu to train on the CPU.");
  five.gpu_ids = "1";
  EXPECT_THAT(refusal_on(8, five), HasSubstr("got 5 processes where 1 GPU is visible"));
  five.gpu_ids.reset();
  EXPECT_EQ(refusal_on(0, five), "") << "without GPUs nothing limits them";
  five.cpu = true;
  EXPECT_EQ(refusal_on(2, five), "");
}

TEST(LaunchGpus, ProcessesOfOtherMachinesHaveGpusOfTheirOwn) {
  LaunchOptions four = options({});
  four.num_processes = 4;
  four.num_machines = 2;
  four.machine_rank = 1;
  four.main_process_ip = "10.0.0.1";
  four.main_process_port = 29500;
  EXPECT_EQ(refusal_on(2, four), "");
}

TEST(LaunchGpus, ListsThatCannotBeAreRefused) {
  EXPECT_EQ(
      refusal_on(2, options("0,2")),
      "[--gpu-ids] There is no GPU 2, this machine has 2 GPUs: got \"0,2\", expected numbers from 0 to 1. Correct the "
      "list, or leave the option out to use all visible ones.");
  EXPECT_THAT(refusal_on(1, options("1")), HasSubstr("this machine has 1 GPU: got \"1\", expected 0."));
  EXPECT_THAT(refusal_on(2, options("0,0")), HasSubstr("A GPU is named twice"));
  for (const char* bad : {"", "0,", ",0", "x", "0;1", "-1", "ALL"}) {
    EXPECT_THAT(refusal_on(2, options(bad)), HasSubstr("This is no list of GPUs")) << bad;
  }
  EXPECT_THAT(refusal_on(0, options("0")), HasSubstr("this machine has no GPU"));
  EXPECT_THAT(refusal_on(0, options("all")), HasSubstr("this machine has no GPU"));
  EXPECT_THAT(refusal_on(2, options("all"), visible("")), HasSubstr("CUDA_VISIBLE_DEVICES hides all"));
  LaunchOptions both = options("0");
  both.cpu = true;
  EXPECT_THAT(refusal_on(2, both), HasSubstr("got --gpu-ids 0 and --cpu, expected one of the two"));
}

}  // namespace
}  // namespace accelerate::internal::launch
