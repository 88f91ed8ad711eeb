// Which device a process trains on, decided from values alone: no GPU is needed to test it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "accelerate/plan_device.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::ConfigError;
using accelerate::Environment;
using accelerate::Launched;
using accelerate::internal::choose_device;
using accelerate::internal::Hardware;
using accelerate::support::ThrowsError;

const Environment kNothing({});

Launched process(int64_t local_rank, int64_t local_size) {
  return {.world = {.rank = local_rank, .size = local_size, .local_rank = local_rank, .local_size = local_size}};
}

auto refuses(const std::string& got) {
  return ThrowsError<ConfigError>({.place = "device",
                                   .what = "more processes than GPUs",
                                   .got = got,
                                   .expected = "a GPU for each process",
                                   .remedy = "CUDA_VISIBLE_DEVICES"});
}

c10::Device chosen(const Launched& launched, int64_t gpus) {
  return choose_device({}, kNothing, launched, Hardware{.cuda_devices = gpus}).device;
}

TEST(Device, IsTheCpuWhereNoGpuIsVisible) {
  const auto [device, source] = choose_device({}, kNothing, process(3, 4), Hardware{});
  EXPECT_EQ(device, c10::Device(c10::kCPU));
  EXPECT_EQ(source, "default");
}

TEST(Device, IsTheGpuOfTheProcessesPlaceOnTheHost) {
  EXPECT_EQ(chosen(process(0, 1), 1), c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(chosen(process(0, 1), 8), c10::Device(c10::kCUDA, 0));
  for (int64_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(chosen(process(rank, 4), 4), c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(rank)));
  }
  // The third and fourth process of eight, two hosts with four each.
  const Launched second_host{.world = {.rank = 6, .size = 8, .local_rank = 2, .local_size = 4}};
  EXPECT_EQ(chosen(second_host, 4), c10::Device(c10::kCUDA, 2));
}

TEST(Device, IsTheFirstOfGpusThatTheLauncherGaveToThisProcessAlone) {
  Launched task = process(3, 4);
  task.own_gpus = true;
  EXPECT_EQ(chosen(task, 1), c10::Device(c10::kCUDA, 0));
  EXPECT_EQ(chosen(task, 2), c10::Device(c10::kCUDA, 0));
}

TEST(Device, IsTheCpuWhenAskedForThoughGpusAreVisible) {
  const Hardware two{.cuda_devices = 2};
  const auto argument = choose_device(true, kNothing, process(0, 1), two);
  EXPECT_EQ(argument.device, c10::Device(c10::kCPU));
  EXPECT_EQ(argument.source, "argument");
  const auto variable = choose_device({}, Environment({{"ACCELERATE_USE_CPU", "yes"}}), process(0, 1), two);
  EXPECT_EQ(variable.device, c10::Device(c10::kCPU));
  EXPECT_EQ(variable.source, "environment ACCELERATE_USE_CPU");
  // Many processes of a CPU run do not ask how many GPUs there are.
  EXPECT_EQ(choose_device(true, kNothing, process(5, 6), two).device, c10::Device(c10::kCPU));
}

TEST(Device, TheArgumentWinsOverTheEnvironment) {
  const Environment cpu({{"ACCELERATE_USE_CPU", "1"}});
  EXPECT_EQ(choose_device(false, cpu, process(0, 1), Hardware{.cuda_devices = 1}).device, c10::Device(c10::kCUDA, 0));
}

TEST(Device, MoreProcessesThanGpusAreRefusedOnEveryRankNamingBoth) {
  for (int64_t rank = 0; rank < 3; ++rank) {
    EXPECT_THAT([&] { chosen(process(rank, 3), 2); }, refuses("3 processes and 2 visible GPUs")) << rank;
  }
  EXPECT_THAT([] { chosen(process(1, 2), 1); }, refuses("2 processes and 1 visible GPU"));
}

TEST(Device, AHostWhoseLauncherDoesNotSayHowManyProcessesItHasIsJudgedByThePlace) {
  Launched process_5 = process(5, 6);
  process_5.world.local_size = 1;
  EXPECT_THAT([&] { chosen(process_5, 4); }, refuses("6 processes and 4 visible GPUs"));
}

}  // namespace
