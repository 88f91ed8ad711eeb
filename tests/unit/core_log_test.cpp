#include "accelerate/core/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <utility>
#include <vector>

#include "tests/support/throws_error.h"

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

TEST(Log, TheLeastLevelCountsWithASinkAndWithout) {
  const auto lines = [](std::optional<LogLevel> least) {
    int64_t count = 0;
    const Log log([&](LogLevel, std::string_view) { ++count; }, 0, least);
    log.info("started");
    log.warning("slow");
    return count;
  };
  EXPECT_EQ(lines({}), 2);
  EXPECT_EQ(lines(LogLevel::kInfo), 2);
  EXPECT_EQ(lines(LogLevel::kWarning), 1);
  EXPECT_EQ(lines(LogLevel::kError), 0);
  ::testing::internal::CaptureStderr();
  Log({}, 0, LogLevel::kInfo).info("started");
  Log({}, 0, LogLevel::kError).warning("slow");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "accelerate: [rank 0] started\n");
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

TEST(LogLevel, IsReadInAnyCase) {
  for (const char* text : {"debug", "DEBUG", "Debug"}) EXPECT_EQ(log_level_of(text, "here"), LogLevel::kDebug);
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError, LogLevel::kCritical}) {
    EXPECT_EQ(log_level_of(name_of(level), "here"), level);
  }
  for (const char* text : {"", "warn", "info "}) {
    EXPECT_THAT([&] { log_level_of(text, "HERE"); },
                support::ThrowsError<ConfigError>({.place = "HERE",
                                                   .what = "not known",
                                                   .got = "\"" + std::string(text) + "\"",
                                                   .expected = "warning, error or critical",
                                                   .remedy = "unset"}));
  }
}

TEST(Log, WhatTheSinkThrowsReachesTheCaller) {
  const Log log([](LogLevel, std::string_view) { throw std::runtime_error("the sink is full"); }, 0);
  EXPECT_THROW(log.warning("slow"), std::runtime_error);
}

}  // namespace
}  // namespace accelerate
