// A rank that fails: who is named, with what, and that nobody stays. That the others have gone is seen by finish(): it
// returns when no process holds the pipes any more, and ranks that would stay do so far longer than a test may take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

constexpr const char* kLong = "sleep 1000";

std::string if_rank(int rank, const std::string& script) {
  return "if [ $RANK = " + std::to_string(rank) + " ]; then " + script + "; fi; " + kLong;
}

TEST(RunFailure, TheCodeOfTheRankIsTheCommands) {
  for (const int code : {1, 3, 126, 127, 255}) {
    const Outcome outcome = run(shells(3, if_rank(1, "exit " + std::to_string(code))));
    EXPECT_EQ(outcome.exit_code, code);
    EXPECT_THAT(outcome.err,
                MatchesRegex("\\[launch\\] Rank 1 of 3 \\(process [0-9]+\\) was the first to fail: got exit code " +
                             std::to_string(code) + ", expected exit code 0. It wrote nothing to standard error.\n"));
  }
}

TEST(RunFailure, ASignalHasItsName) {
  const Outcome outcome = run(shells(3, if_rank(2, "echo about to crash >&2; ulimit -c 0; kill -SEGV $$")));
  EXPECT_EQ(outcome.exit_code, 128 + SIGSEGV);
  EXPECT_THAT(outcome.err, HasSubstr("Rank 2 of 3 "));
  EXPECT_THAT(outcome.err, HasSubstr("got SIGSEGV (Segmentation fault), expected exit code 0. The last it wrote to "
                                     "standard error:\n  | about to crash\n"));
}

TEST(RunFailure, SigkillPointsToMemory) {
  const Outcome outcome = run(shells(2, if_rank(0, "kill -KILL $$")));
  EXPECT_EQ(outcome.exit_code, 128 + SIGKILL);
  EXPECT_THAT(outcome.err,
              HasSubstr("got SIGKILL (Killed), expected exit code 0. If nobody killed it, memory ran out"));
}

TEST(RunFailure, ASignalWithoutANameHasItsNumber) {
  const Outcome outcome = run(shells(1, "kill -40 $$"));
  EXPECT_EQ(outcome.exit_code, 168);
  EXPECT_THAT(outcome.err, HasSubstr("got signal 40"));
}

TEST(RunFailure, TheLastLinesAreThoseOfTheRankThatFailed) {
  const Outcome outcome = run(shells(3,
                                     "if [ $RANK = 0 ]; then for i in $(seq 100); do echo error $i >&2; done; exit 5; "
                                     "fi; echo other >&2; sleep 1000"));
  EXPECT_EQ(outcome.exit_code, 5);
  const std::string report = outcome.err.substr(outcome.err.find("[launch]"));
  EXPECT_EQ(count(report, "  | error "), 20);
  EXPECT_THAT(report, HasSubstr("  | error 81\n"));
  EXPECT_THAT(report, HasSubstr("  | error 100\n"));
  EXPECT_THAT(report, Not(HasSubstr("error 80\n")));
  EXPECT_THAT(report, Not(HasSubstr("other")));
  EXPECT_THAT(outcome.err, HasSubstr("error 1\n")) << "what it wrote passed through too";
}

TEST(RunFailure, ThePrefixIsNoPartOfTheLastLines) {
  const Outcome outcome = run(shells(1, "printf 'no newline' >&2; exit 1", {"--prefix-output"}));
  EXPECT_THAT(outcome.err, HasSubstr("[0] no newline\n[launch]"));
  EXPECT_THAT(outcome.err, HasSubstr("\n  | no newline\n"));
}

TEST(RunFailure, TheFirstOneIsNamedAndNoOther) {
  // The others fail when they are asked to end, so later by construction.
  const Outcome outcome = run(shells(3,
                                     "trap 'echo follows; exit 9' TERM; if [ $RANK = 0 ]; then exit 4; fi; "
                                     "while :; do sleep 0.02; done"));
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_EQ(count(outcome.err, "[launch]"), 1);
  EXPECT_THAT(outcome.err, HasSubstr("Rank 0 of 3 "));
}

TEST(RunFailure, RanksMayFinishWhatTheyDoBeforeTheGraceIsOver) {
  const Folder folder;
  // Rank 0 fails when rank 1 is ready to be asked.
  const Outcome outcome =
      run(shells(2,
                 "if [ $RANK = 0 ]; then while [ ! -e \"$READY\" ]; do sleep 0.02; done; exit 8; fi; "
                 "trap 'sleep 0.3; echo saved; exit 0' TERM; : >\"$READY\"; "
                 "while :; do sleep 0.02; done"),
          {.environment = {{"READY", folder.path() + "/ready"}}});
  EXPECT_EQ(outcome.exit_code, 8);
  EXPECT_EQ(outcome.out, "saved\n");
}

TEST(RunFailure, WhoIgnoresSigtermIsKilled) {
  const Folder folder;
  const Outcome outcome = run(shells(3,
                                     "if [ $RANK = 1 ]; then while [ ! -e \"$READY\"0 ] || [ ! -e \"$READY\"2 ]; do "
                                     "sleep 0.02; done; exit 2; fi; trap '' TERM; : >\"$READY\"$RANK; sleep 1000",
                                     {"--grace-period", "0"}),
                              {.environment = {{"READY", folder.path() + "/ready"}}});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(
      outcome.err,
      HasSubstr("[launch] 2 ranks had to be ended with SIGKILL, not having ended within 0 s (--grace-period).\n"));
}

TEST(RunFailure, AStoppedRankIsNoEndedOneAndEndsWithTheOthers) {
  const Folder folder;
  const Outcome outcome =
      run(shells(2,
                 "if [ $RANK = 0 ]; then echo $$ >\"$ID.new\"; mv \"$ID.new\" \"$ID\"; kill -STOP $$; "
                 "sleep 1000; fi; while [ ! -e \"$ID\" ]; do sleep 0.02; done; "
                 "while ! grep -q '^State:.T' /proc/$(cat \"$ID\")/status; do sleep 0.02; done; "
                 "echo stopped; exit 6"),
          {.environment = {{"ID", folder.path() + "/id"}}});
  EXPECT_EQ(outcome.exit_code, 6);
  EXPECT_EQ(outcome.out, "stopped\n");
  EXPECT_THAT(outcome.err, HasSubstr("Rank 1 of 2 "));
  EXPECT_THAT(outcome.err, Not(HasSubstr("SIGKILL"))) << "it could take SIGTERM";
}

TEST(RunFailure, APortThatWasTakenIsPointedOut) {
  const Outcome outcome = run(shells(2, if_rank(0, "echo 'bind: Address already in use' >&2; exit 1")));
  EXPECT_THAT(outcome.err, HasSubstr("The port for rank 0 was taken by another program"));
  EXPECT_THAT(outcome.err, HasSubstr("--main-process-port"));
}

TEST(RunFailure, ARankThatEndsWellDoesNotEndTheOthers) {
  const Folder folder;
  // Rank 1 goes on until rank 0 has left its number in the folder and is no more.
  const Outcome outcome =
      run(shells(2,
                 "if [ $RANK = 0 ]; then echo $$ >\"$ID.new\"; mv \"$ID.new\" \"$ID\"; exit 0; fi; "
                 "while [ ! -e \"$ID\" ] || kill -0 $(cat \"$ID\") 2>/dev/null; do sleep 0.02; done; "
                 "echo alone"),
          {.environment = {{"ID", folder.path() + "/id"}}});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.out, "alone\n");
  EXPECT_EQ(outcome.err, "");
}

TEST(RunFailure, AHundredRanksEndWithTheOneThatFails) {
  const Outcome outcome = run(shells(100, if_rank(57, "echo here >&2; exit 7")));
  EXPECT_EQ(outcome.exit_code, 7);
  EXPECT_THAT(outcome.err, HasSubstr("Rank 57 of 100 "));
  EXPECT_THAT(outcome.err, HasSubstr("  | here\n"));
}

TEST(RunFailure, WithSeveralMachinesTheRankIsTheGlobalOne) {
  const Outcome outcome = run(shells(
      4, "[ $LOCAL_RANK = 1 ] && exit 3; sleep 1000",
      {"--num-machines", "2", "--machine-rank", "1", "--main-process-ip", "127.0.0.1", "--main-process-port", "4711"}));
  EXPECT_THAT(outcome.err, HasSubstr("Rank 3 of 4 "));
}

}  // namespace
}  // namespace accelerate::internal::launch
