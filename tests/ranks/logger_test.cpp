// Loggers: who writes, in which order, from which call. Table: upstream's tests/test_logging.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::CallSite;
using accelerate::Logger;
using accelerate::LogLevel;
using accelerate::LogRecord;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;
using ::testing::ElementsAre;
using ::testing::EndsWith;

struct Line {
  LogLevel level;
  std::string name, message, file, function;
  int line;
};

/// What loggers of several ranks wrote, in the order in which it came.
class Lines {
 public:
  std::function<void(const LogRecord&)> sink() {
    return [this](const LogRecord& record) {
      const std::lock_guard lock(mutex_);
      lines_.push_back({record.level, std::string(record.name), std::string(record.message), record.site.file,
                        record.site.function, record.site.line});
    };
  }
  std::vector<std::string> messages() const {
    std::vector<std::string> texts;
    for (const Line& line : lines_) texts.push_back(line.message);
    return texts;
  }
  const Line& only() const { return lines_.at(0); }

 private:
  std::mutex mutex_;
  std::vector<Line> lines_;
};

// Levels may differ: each process has its own log file, and one of them the details.
TEST(Logger, InOrderEachProcessTakesItsTurnWhateverItsLevel) {
  Lines lines;
  run_ranks(3, [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const LogLevel level = rank.rank() == 1 ? LogLevel::kError : LogLevel::kInfo;
    const Logger logger = accelerator.get_logger("train", {.log_level = level, .sink = lines.sink()});
    logger.info("in turn", {.in_order = true});
    EXPECT_EQ(accelerator.gather(torch::full({1}, rank.rank())).sum().item<int64_t>(), 3);
  });
  EXPECT_THAT(lines.messages(), ElementsAre("[RANK 0] in turn", "[RANK 2] in turn"));
}

TEST(Logger, OneWarningIsOneRecordOfItsCall) {
  Lines lines;
  const Accelerator accelerator;
  const Logger logger = accelerator.get_logger("train", {.sink = lines.sink()});
  const int here = __LINE__ + 1;
  logger.warning("Test");
  ASSERT_THAT(lines.messages(), ElementsAre("[RANK 0] Test"));
  EXPECT_EQ(lines.only().level, LogLevel::kWarning);
  EXPECT_EQ(lines.only().name, "train");
  EXPECT_EQ(lines.only().line, here);
  EXPECT_THAT(lines.only().file, EndsWith("logger_test.cpp"));
  EXPECT_EQ(lines.only().function, "TestBody");
}

void wrapper(const Logger& logger, std::string_view message, CallSite site = CallSite::here()) {
  logger.error(message, {}, site);
}

TEST(Logger, AWrapperHandsItsOwnCallOn) {
  Lines lines;
  const Logger logger = Accelerator().get_logger("train", {.sink = lines.sink()});
  const int here = __LINE__ + 1;
  wrapper(logger, "Test");
  EXPECT_EQ(lines.only().line, here);
  EXPECT_EQ(lines.only().function, "TestBody");
}

TEST(Logger, BelowItsLevelNothingHappens) {
  Lines lines;
  const Accelerator accelerator;
  const auto all = [&](const Logger& logger) {
    logger.debug("debug");
    logger.info("info");
    logger.warning("warning");
    logger.error("error");
    logger.critical("critical");
  };
  all(accelerator.get_logger("a", {.sink = lines.sink()}));
  EXPECT_THAT(lines.messages(), ElementsAre("[RANK 0] warning", "[RANK 0] error", "[RANK 0] critical"));
  all(accelerator.get_logger("a", {.log_level = LogLevel::kError, .sink = lines.sink()}));
  EXPECT_EQ(lines.messages().size(), 5U);
  all(accelerator.get_logger("a", {.log_level = LogLevel::kDebug, .sink = lines.sink()}));
  EXPECT_EQ(lines.messages().size(), 10U);
  EXPECT_FALSE(accelerator.get_logger("a").is_enabled_for(LogLevel::kInfo));
}

TEST(Logger, TheVariableSetsTheLevelAndTheArgumentGoesBeforeIt) {
  const auto scope = accelerate::patch_environment({{"ACCELERATE_LOG_LEVEL", "Info"}});
  const Accelerator accelerator;
  EXPECT_EQ(accelerator.get_logger("a").level(), LogLevel::kInfo);
  EXPECT_EQ(accelerator.get_logger("a", {.log_level = LogLevel::kError}).level(), LogLevel::kError);
  EXPECT_EQ(accelerator.plan().at("log_level").value, "INFO");
  EXPECT_EQ(accelerator.plan().at("log_level").source, "environment ACCELERATE_LOG_LEVEL");
  const auto typo = accelerate::patch_environment({{"ACCELERATE_LOG_LEVEL", "verbose"}});
  EXPECT_THAT([] { Accelerator(); },
              accelerate::support::ThrowsError<accelerate::ConfigError>({.place = "ACCELERATE_LOG_LEVEL",
                                                                         .what = "not known",
                                                                         .got = "\"verbose\"",
                                                                         .expected = "debug, info",
                                                                         .remedy = "unset"}));
}

TEST(Logger, WithoutASinkLinesGoWhereTheAcceleratorsDo) {
  std::vector<std::pair<LogLevel, std::string>> lines;
  const Accelerator accelerator(
      {.log_sink = [&](LogLevel level, std::string_view line) { lines.emplace_back(level, line); }});
  accelerator.get_logger("train", {.log_level = LogLevel::kInfo}).info("started");
  EXPECT_THAT(lines, ElementsAre(std::pair(LogLevel::kInfo, std::string("INFO train: [RANK 0] started"))));
  testing::internal::CaptureStderr();
  Accelerator().get_logger("train", {.log_level = LogLevel::kInfo}).info("started");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "INFO train: [RANK 0] started\n");
}

TEST(Logger, AWarningIsGivenOnceForItsTextAndOptions) {
  Lines lines;
  const Accelerator accelerator;
  const Logger logger = accelerator.get_logger("a", {.sink = lines.sink()});
  const Logger copy = logger;
  for (int i = 0; i < 3; ++i) {
    logger.warning_once("slow");
    copy.warning_once("slow");
    logger.warning_once("slow", {.main_process_only = false});
    logger.warning_once("slower");
  }
  EXPECT_THAT(lines.messages(), ElementsAre("[RANK 0] slow", "[RANK 0] slow", "[RANK 0] slower"));
  accelerator.get_logger("a", {.sink = lines.sink()}).warning_once("slow");
  EXPECT_EQ(lines.messages().size(), 4U) << "another logger has its own memory";
}

class LoggerOfRanks : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, LoggerOfRanks, testing::Values(1, 2, 4));

TEST_P(LoggerOfRanks, TheMainProcessAllOrAllInTurn) {
  Lines lines;
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const Logger logger = accelerator.get_logger("train", {.sink = lines.sink()});
    logger.warning("main");
    accelerator.wait_for_everyone();
    for (int i = 0; i < 3; ++i) logger.error("in turn", {.in_order = true});
    logger.info("below the level", {.in_order = true});
    logger.warning("all", {.main_process_only = false});
  });
  std::vector<std::string> expected{"[RANK 0] main"};
  for (int i = 0; i < 3; ++i) {
    for (int64_t rank = 0; rank < GetParam(); ++rank) expected.push_back("[RANK " + std::to_string(rank) + "] in turn");
  }
  std::vector<std::string> messages = lines.messages();
  const size_t ordered = expected.size();
  for (int64_t rank = 0; rank < GetParam(); ++rank) expected.push_back("[RANK " + std::to_string(rank) + "] all");
  // After the last turn the ranks are free.
  ASSERT_EQ(messages.size(), expected.size());
  std::sort(messages.begin() + static_cast<int64_t>(ordered), messages.end());
  EXPECT_EQ(messages, expected);
}

TEST(Logger, ManyThreadsMayWrite) {
  Lines lines;
  const Logger logger = Accelerator().get_logger("a", {.sink = lines.sink()});
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 100; ++j) logger.warning_once(std::to_string(j));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lines.messages().size(), 100U);
}

}  // namespace
