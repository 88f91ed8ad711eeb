// What every rank is given, and what a launch without trouble does.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;
using Lines = std::vector<std::string>;

TEST(RunRanks, EveryRankHasItsVariables) {
  const Outcome outcome =
      run(shells(3, "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
  EXPECT_EQ(sorted_lines(outcome.out), (Lines{"0 0 3 3 0 127.0.0.1", "1 1 3 3 0 127.0.0.1", "2 2 3 3 0 127.0.0.1"}));
}

TEST(RunRanks, AllAreToldOnePort) {
  const Outcome outcome = run(shells(3, "echo $MASTER_PORT"));
  const Lines ports = sorted_lines(outcome.out);
  ASSERT_EQ(ports.size(), 3u);
  EXPECT_EQ(std::set<std::string>(ports.begin(), ports.end()).size(), 1u);
  EXPECT_GT(std::stoi(ports.front()), 1023);
  EXPECT_EQ(run(shells(1, "echo $MASTER_PORT", {"--main-process-port", ports.front()})).out, ports.front() + "\n");
}

TEST(RunRanks, TheSecondMachineHasTheLaterRanks) {
  const Outcome outcome = run(shells(
      4, "echo $RANK $LOCAL_RANK $WORLD_SIZE $GROUP_RANK $MASTER_ADDR:$MASTER_PORT",
      {"--num-machines", "2", "--machine-rank", "1", "--main-process-ip", "10.1.2.3", "--main-process-port", "4711"}));
  EXPECT_EQ(sorted_lines(outcome.out), (Lines{"2 0 4 1 10.1.2.3:4711", "3 1 4 1 10.1.2.3:4711"}));
}

TEST(RunRanks, TheEnvironmentIsHandedOn) {
  const Start start{.environment = {{"MINE", "a=b c"}, {"RANK", "77"}, {"OMP_NUM_THREADS", "5"}, {"EMPTY", ""}}};
  const Outcome outcome = run(shells(2, "echo \"$RANK $MINE $OMP_NUM_THREADS ${EMPTY-unset}\""), start);
  EXPECT_EQ(sorted_lines(outcome.out), (Lines{"0 a=b c 5 ", "1 a=b c 5 "}));
}

TEST(RunRanks, ArgumentsArriveAsTheyWere) {
  const Outcome outcome = run({"launch", "/usr/bin/printf", "<%s>", "a b", "", "*", "\xff", "$HOME"});
  EXPECT_EQ(outcome.out, "<a b><><*><\xff><$HOME>");
}

TEST(RunRanks, AHundredRanksRun) {
  const Outcome outcome = run(shells(100, "echo $RANK; echo $RANK >&2", {"--prefix-output"}));
  EXPECT_EQ(outcome.exit_code, 0);
  std::set<std::string> expected;
  for (int rank = 0; rank < 100; ++rank) expected.insert("[" + std::to_string(rank) + "] " + std::to_string(rank));
  for (const std::string& text : {outcome.out, outcome.err}) {
    const Lines lines = sorted_lines(text);
    EXPECT_EQ(lines.size(), 100u);
    EXPECT_EQ(std::set<std::string>(lines.begin(), lines.end()), expected);
  }
}

TEST(RunRanks, TheFirstRankReadsStandardInput) {
  const Outcome outcome =
      run(shells(3, "read line; echo \"$RANK <$line>\""), {.in = StandardInput::kText, .text = "hello\n"});
  EXPECT_EQ(sorted_lines(outcome.out), (Lines{"0 <hello>", "1 <>", "2 <>"}));
}

TEST(RunRanks, AClosedStandardInputIsEmpty) {
  const Outcome outcome =
      run(shells(2, "cat; echo done; echo failing >&2", {"--prefix-output"}), {.in = StandardInput::kClosed});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(sorted_lines(outcome.out), (Lines{"[0] done", "[1] done"}));
  EXPECT_EQ(sorted_lines(outcome.err), (Lines{"[0] failing", "[1] failing"}));
}

TEST(RunRanks, NoDescriptorIsHandedOnThatWasNotGiven) {
  // The folder itself is open while it is listed.
  const Outcome outcome = run(shells(8, "ls /proc/self/fd | tr '\\n' ' '; echo", {"--prefix-output"}));
  for (const std::string& line : sorted_lines(outcome.out)) EXPECT_EQ(line.substr(line.find(' ')), " 0 1 2 3 ");
  EXPECT_EQ(count(outcome.out, "\n"), 8);
}

TEST(RunRanks, SignalsAreAsAProgramExpectsThem) {
  const Outcome outcome = run(shells(2, "grep -E '^Sig(Blk|Ign)' /proc/self/status"));
  for (const std::string& line : sorted_lines(outcome.out)) EXPECT_THAT(line, HasSubstr("\t0000000000000000"));
  EXPECT_EQ(count(outcome.out, "\n"), 4);
}

TEST(RunRanks, ARankLeadsASessionOfItsOwn) {
  const Outcome outcome = run(shells(2, "set -- $(cat /proc/$$/stat); [ $1 = $5 ] && [ $1 = $6 ] && echo leads"));
  EXPECT_EQ(outcome.out, "leads\nleads\n");
}

}  // namespace
}  // namespace accelerate::internal::launch
