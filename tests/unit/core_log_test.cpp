#include "accelerate/core/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace accelerate {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(Log, TheSinkReceivesOneFinishedLineWithTheRankInFront) {
  std::vector<std::pair<LogLevel, std::string>> lines;
  const Log log([&](LogLevel level, std::string_view line) { lines.emplace_back(level, line); }, 3);
  log.info("started");
  log.warning("slow");
  EXPECT_THAT(lines, ElementsAre(Pair(LogLevel::kInfo, "[rank 3] started"), Pair(LogLevel::kWarning, "[rank 3] slow")));
}

TEST(Log, WithASinkNothingIsPrinted) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  const Log log([](LogLevel, std::string_view) {}, 0);
  log.info("started");
  log.warning("slow");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST(Log, WithoutASinkWarningsGoToStandardErrorAndTheRestNowhere) {
  ::testing::internal::CaptureStderr();
  ::testing::internal::CaptureStdout();
  const Log log({}, 1);
  log.info("started");
  log.warning("slow");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "accelerate: [rank 1] slow\n");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
}

TEST(Log, WhatTheSinkThrowsReachesTheCaller) {
  const Log log([](LogLevel, std::string_view) { throw std::runtime_error("the sink is full"); }, 0);
  EXPECT_THROW(log.warning("slow"), std::runtime_error);
}

}  // namespace
}  // namespace accelerate
