// Signals to the command, and what is left when it is killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

/// Answers a signal with its name and a code of its own.
std::string answering(const std::string& name) {
  return "trap 'echo got " + name + " $RANK; exit 0' " + name + "; echo ready; while :; do sleep 0.02; done";
}

/// Returns when /proc says that the process is in this state.
void await_state(const std::string& process, char state) {
  for (std::string line; line.find(std::string(") ") + state) == std::string::npos; ::sched_yield()) {
    std::ifstream file("/proc/" + process + "/stat");
    ASSERT_TRUE(std::getline(file, line)) << "there is no process " << process;
  }
}

class RunSignals : public testing::TestWithParam<std::pair<int, const char*>> {};

TEST_P(RunSignals, AreHandedOnAndEndTheLaunch) {
  const auto [number, name] = GetParam();
  Running running(shells(3, answering(name)));
  running.wait_for("ready\n", 3);
  running.signal(number);
  const Outcome outcome = running.finish();
  EXPECT_EQ(outcome.exit_code, 128 + number);
  for (const char* rank : {"0", "1", "2"}) EXPECT_THAT(outcome.out, HasSubstr("got " + std::string(name) + " " + rank));
  // Shells may write about the signal too.
  EXPECT_THAT(outcome.err, EndsWith("[launch] Ended by SIG" + std::string(name) +
                                    ", which the launcher received and handed on to all 3 ranks here.\n"));
}

INSTANTIATE_TEST_SUITE_P(Ending, RunSignals,
                         testing::Values(std::pair(SIGTERM, "TERM"), std::pair(SIGINT, "INT"), std::pair(SIGHUP, "HUP"),
                                         std::pair(SIGQUIT, "QUIT")),
                         [](const auto& each) { return std::string(each.param.second); });

TEST(RunSignals, UserSignalsAreHandedOnAndTheRunGoesOn) {
  Running running(shells(2,
                         "trap 'echo one $RANK' USR1; trap 'echo two $RANK; exit 0' USR2; echo ready; "
                         "while :; do sleep 0.02; done"));
  running.wait_for("ready\n", 2);
  running.signal(SIGUSR1);
  running.wait_for("one ", 2);
  running.signal(SIGUSR2);
  const Outcome outcome = running.finish();
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(count(outcome.out, "two "), 2);
}

TEST(RunSignals, ASecondOneKills) {
  Running running(shells(2, "trap 'echo still here' INT; echo ready; while :; do sleep 0.02; done"));
  running.wait_for("ready\n", 2);
  running.signal(SIGINT);
  running.wait_for("still here\n", 2);
  running.signal(SIGINT);
  const Outcome outcome = running.finish();
  EXPECT_EQ(outcome.exit_code, 128 + SIGINT);
  EXPECT_THAT(outcome.err, HasSubstr("2 ranks had to be ended with SIGKILL"));
}

TEST(RunSignals, ARankThatDiesOfOneThatWasHandedOnIsNoFailure) {
  Running running(shells(2, "echo ready; exec sleep 1000"));
  running.wait_for("ready\n", 2);
  running.signal(SIGTERM);
  const Outcome outcome = running.finish();
  EXPECT_EQ(outcome.exit_code, 128 + SIGTERM);
  EXPECT_THAT(outcome.err, Not(HasSubstr("first to fail")));
}

TEST(RunSignals, WhatWasIgnoredStaysIgnored) {
  // As under nohup: an ignored signal is inherited through exec.
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGHUP, &ignore, &before);
  Running running(shells(1, "trap 'exit 0' USR1; echo ready; while :; do sleep 0.02; done"));
  ::sigaction(SIGHUP, &before, nullptr);
  running.wait_for("ready\n");
  running.signal(SIGHUP);
  running.signal(SIGUSR1);
  EXPECT_EQ(running.finish().exit_code, 0);
}

TEST(RunSignals, AStoppedLauncherGoesOnWhereItWas) {
  Running running(shells(2, "trap 'exit 0' USR1; echo ready; while :; do sleep 0.02; done"));
  running.wait_for("ready\n", 2);
  running.signal(SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(running.id(), &status, WUNTRACED), running.id());
  ASSERT_TRUE(WIFSTOPPED(status));
  running.signal(SIGUSR1);
  running.signal(SIGCONT);
  EXPECT_EQ(running.finish().exit_code, 0);
}

TEST(RunSignals, TheTerminalsStopReachesTheRanks) {
  Running running(shells(2, "echo $$; exec sleep 1000"));
  running.wait_for("\n", 2);
  const std::vector<std::string> ranks = sorted_lines(running.out());
  for (const std::string& rank : ranks) await_state(rank, 'S');
  running.signal(SIGTSTP);
  int status = 0;
  ASSERT_EQ(::waitpid(running.id(), &status, WUNTRACED), running.id());
  ASSERT_TRUE(WIFSTOPPED(status));
  for (const std::string& rank : ranks) await_state(rank, 'T');
  running.signal(SIGCONT);
  for (const std::string& rank : ranks) await_state(rank, 'S');
  running.signal(SIGTERM);
  EXPECT_EQ(running.finish().exit_code, 128 + SIGTERM);
}

TEST(RunSignals, AKilledLauncherLeavesNoRank) {
  Running running(shells(4, "echo ready; exec sleep 1000"));
  running.wait_for("ready\n", 4);
  running.signal(SIGKILL);
  EXPECT_EQ(running.finish().exit_code, 128 + SIGKILL) << "finish() returned: nobody held the pipes";
}

TEST(RunSignals, GrandchildrenGoWithAFailure) {
  const Outcome outcome =
      run(shells(2, "sleep 1000 & sh -c 'sleep 1000 & sleep 1000' & [ $RANK = 1 ] && exit 3; wait"));
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("Rank 1 of 2 "));
}

TEST(RunSignals, GrandchildrenGoWithASignal) {
  // A shell's background job ignores SIGINT; it goes when the last rank has gone.
  Running running(shells(2, "trap 'exit 0' INT; sleep 1000 & echo ready; while :; do sleep 0.02; done"));
  running.wait_for("ready\n", 2);
  running.signal(SIGINT);
  EXPECT_EQ(running.finish().exit_code, 128 + SIGINT);
}

TEST(RunSignals, WhatRanksLeaveBehindIsEnded) {
  const Outcome outcome = run(shells(2, "sleep 1000 & exit 0"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
}

TEST(RunSignals, ADaemonIsNotWaitedFor) {
  // One that left its group on purpose and kept the rank's standard error. It leaves when the launcher, whose number it
  // was given, has ended; had the launcher waited for it, neither would.
  const Folder folder;
  const Outcome outcome = run(shells(1,
                                     "setsid sh -c 'exec >/dev/null; echo $$ >\"$0\"; while kill -0 $1; do sleep "
                                     "0.02; done' \"$READY\" $PPID & while [ ! -s \"$READY\" ]; do sleep 0.02; done",
                                     {}),
                              {.environment = {{"READY", folder.path() + "/ready"}}});
  EXPECT_EQ(outcome.exit_code, 0);
}

}  // namespace
}  // namespace accelerate::internal::launch
