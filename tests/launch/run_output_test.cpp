// What ranks write, on its way through the command.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <sstream>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;

TEST(RunOutput, PassesUntouched) {
  const Outcome outcome = run(shells(1, "printf 'a\\r\\0b\\377 no newline'; printf 'x\\ry' >&2"));
  EXPECT_EQ(outcome.out, std::string("a\r\0b\377 no newline", 16));
  EXPECT_EQ(outcome.err, "x\ry");
}

TEST(RunOutput, StandardOutputIsTheCommandsOwn) {
  const Outcome outcome = run(shells(1, "[ /proc/self/fd/1 -ef /proc/$PPID/fd/1 ] && echo same"));
  EXPECT_EQ(outcome.out, "same\n");
}

TEST(RunOutput, PrefixedLinesOfManyRanksNeverMix) {
  constexpr int kRanks = 4, kLines = 20'000;
  const std::string script =
      "seq -f \"line %.0f of $RANK aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\" " +
      std::to_string(kLines);
  for (const bool one_output : {false, true}) {
    const Outcome outcome =
        run(shells(kRanks, "{ " + script + "; } & { " + script + "; } >&2; wait", {"--prefix-output"}),
            {.one_output = one_output});
    EXPECT_EQ(outcome.exit_code, 0);
    // Each stream of each rank in order, wherever the lines of the others fall.
    std::vector<int> out_next(kRanks, 1), seen(kRanks, 0);
    std::istringstream lines(outcome.out + outcome.err);
    for (std::string line; std::getline(lines, line);) {
      int before = -1, number = -1, after = -1, end = 0;
      ASSERT_EQ(std::sscanf(line.c_str(), "[%d] line %d of %d a%n", &before, &number, &after, &end), 3) << line;
      ASSERT_EQ(before, after) << line;
      ASSERT_TRUE(before >= 0 && before < kRanks) << line;
      ASSERT_EQ(line.find_first_not_of('a', static_cast<size_t>(end)), line.size() - 1) << line;
      ASSERT_EQ(line.back(), '.') << line;
      ++seen[before];
    }
    EXPECT_EQ(seen, std::vector<int>(kRanks, 2 * kLines));
  }
}

TEST(RunOutput, AllOfStandardErrorArrives) {
  const Outcome outcome = run(shells(2, "seq 200000 >&2"));
  EXPECT_EQ(outcome.err.size(), 2u * 1'288'895u);
}

TEST(RunOutput, TheLastPartArrivesBeforeTheReport) {
  const Outcome outcome = run(shells(1, "seq 100000 >&2; exit 1"));
  EXPECT_EQ(outcome.err.substr(0, 588'895).substr(588'888), "100000\n");
  EXPECT_EQ(outcome.err.substr(588'895, 8), "[launch]");
}

TEST(RunOutput, AReaderWhoLeavesEndsTheWriters) {
  Running running(shells(2, "while :; do echo something; done", {"--prefix-output"}));
  running.wait_for("something\n", 2);
  running.close_out();
  const Outcome outcome = running.finish();
  EXPECT_EQ(outcome.exit_code, 128 + SIGPIPE);
  EXPECT_THAT(outcome.err, HasSubstr("got SIGPIPE"));
}

TEST(RunOutput, SignalsAreHeardWhileNobodyReads) {
  // Far more than pipes and buffers hold; the launcher waits for a reader and must not be deaf meanwhile.
  Running running(
      shells(2, "trap 'exit 0' TERM; echo ready; seq 2000000; while :; do sleep 0.02; done", {"--prefix-output"}));
  running.wait_for("ready\n", 2);
  running.signal(SIGTERM);
  EXPECT_EQ(running.finish().exit_code, 128 + SIGTERM);
}

}  // namespace
}  // namespace accelerate::internal::launch
