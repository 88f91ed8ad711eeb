#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "tests/launch/running.h"

namespace accelerate::internal::launch {
namespace {

using testing::HasSubstr;
using Words = std::vector<std::string>;

std::string snapshot(const std::string& name) {
  std::ifstream file(std::string(LAUNCH_TESTS_DIR) + "/" + name);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void expect_refused(const Words& words, const std::string& part) {
  const Outcome outcome = run(words);
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr(part));
  EXPECT_EQ(count(outcome.err, "\n"), 1) << outcome.err;
}

TEST(CommandLine, HelpIsWhatItWas) {
  const Outcome whole = run({"--help"}), launch = run({"launch", "--help"});
  EXPECT_EQ(whole.exit_code, 0);
  EXPECT_EQ(whole.out, snapshot("help.txt"));
  EXPECT_EQ(launch.exit_code, 0);
  EXPECT_EQ(launch.out, snapshot("help_launch.txt"));
  EXPECT_EQ(run({"-h"}).out, whole.out);
  EXPECT_EQ(run({"launch", "-h", "./program"}).out, launch.out);
}

TEST(CommandLine, WithoutACommandHelpIsAnError) {
  const Outcome outcome = run({});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_EQ(outcome.err, snapshot("help.txt"));
  EXPECT_EQ(outcome.out, "");
}

TEST(CommandLine, VersionIsTheProjects) {
  EXPECT_EQ(run({"--version"}).out, "accelerate-cpp " ACCELERATE_VERSION "\n");
}

TEST(CommandLine, UnknownWordsSuggestTheNearest) {
  expect_refused({"lanch"},
                 "[accelerate-cpp] There is no such command: got \"lanch\", expected a command (\"launch\"), --help or "
                 "--version. The nearest is launch.\n");
  expect_refused({"--verison"}, "There is no such option: got \"--verison\"");
  expect_refused({"quite else"}, "Type: accelerate-cpp --help.");
  expect_refused(
      {"launch", "--num-proceses", "2", "/bin/true"},
      "[launch] There is no such option: got --num-proceses, expected an option of accelerate-cpp launch --help, "
      "or the program. The nearest is --num-processes.\n");
  expect_refused({"launch", "--gpu_idz=0", "/bin/true"}, "got --gpu_idz=0");
  expect_refused({"launch", "--gpu_idz=0", "/bin/true"}, "The nearest is --gpu-ids.");
  expect_refused({"launch", "--learning-rate", "1", "/bin/true"}, "Options of the program come after it.");
  expect_refused({"launch", "-n", "2", "/bin/true"}, "There is no such option: got -n");
}

TEST(CommandLine, NumbersAreNumbers) {
  expect_refused({"launch", "--num-processes", "two", "/bin/true"},
                 "[--num-processes] This is not a number: got \"two\", expected digits. Correct --num-processes.\n");
  for (const char* bad : {"", "2x", "1.5", " 2", "99999999999999999999", "--cpu"}) {
    expect_refused({"launch", "--num-processes", bad, "/bin/true"}, "This is not a number: got \"" + std::string(bad));
  }
  expect_refused({"launch", "--num-processes", "0", "/bin/true"}, "got 0, expected a number from 1");
  expect_refused({"launch", "--num-processes", "-1", "/bin/true"}, "got -1, expected a number from 1");
  expect_refused({"launch", "--main-process-port", "http", "/bin/true"}, "[--main-process-port]");
  expect_refused({"launch", "--grace-period", "soon", "/bin/true"}, "[--grace-period]");
}

TEST(CommandLine, WhatIsMissingIsNamed) {
  expect_refused({"launch"}, "There is no program to start");
  expect_refused({"launch", "--num-processes", "2"}, "--num-processes 2 ./program");
  expect_refused({"launch", "--num_processes"}, "[--num-processes] The option has no value: got the end of the line");
  expect_refused({"launch", "--num-machines", "2", "/bin/true"},
                 "got 2 machines without --machine-rank, --main-process-ip");
}

TEST(CommandLine, AFlagTakesNoValue) { expect_refused({"launch", "--cpu=maybe", "/bin/true"}, "[launch]"); }

TEST(CommandLine, PeersSpellingsMeanTheSame) {
  const std::string script =
      "echo $WORLD_SIZE $OMP_NUM_THREADS $ACCELERATE_MIXED_PRECISION "
      "$ACCELERATE_GRADIENT_ACCUMULATION_STEPS $ACCELERATE_USE_CPU";
  const Words tail{"/bin/sh", "-c", script};
  const auto out = [&](Words words) {
    words.insert(words.begin(), "launch");
    words.insert(words.end(), tail.begin(), tail.end());
    return run(words).out;
  };
  const std::string expected = "2 3 bf16 4 true\n2 3 bf16 4 true\n";
  EXPECT_EQ(out({"--num-processes", "2", "--num-cpu-threads-per-process", "3", "--mixed-precision", "bf16",
                 "--gradient-accumulation-steps", "4", "--cpu"}),
            expected);
  EXPECT_EQ(out({"--num_processes", "2", "--num_cpu_threads_per_process", "3", "--mixed_precision", "bf16",
                 "--gradient_accumulation_steps", "4", "--cpu"}),
            expected);
  EXPECT_EQ(out({"--num_processes=2", "--num-cpu_threads-per_process=3", "--mixed_precision=bf16",
                 "--gradient_accumulation-steps=4", "--cpu", "--"}),
            expected);
  EXPECT_EQ(out({"--num-processes", "7", "--num_processes", "2", "--num-cpu-threads-per-process", "3",
                 "--mixed-precision", "bf16", "--gradient-accumulation-steps", "4", "--cpu"}),
            expected)
      << "the last one counts";
}

TEST(CommandLine, WhatComesAfterTheProgramIsTheProgramsOwn) {
  const Words words{"launch", "--num-processes", "1",           "/bin/echo", "--num-processes",
                    "5",      "--cpu",           "--no_such=1", "--",        "-h"};
  EXPECT_EQ(run(words).out, "--num-processes 5 --cpu --no_such=1 -- -h\n");
}

TEST(CommandLine, GpusThatAreNotThereAreRefused) {
  expect_refused({"launch", "--gpu-ids", "0,4095", "/bin/true"}, "[--gpu-ids] There");
}

}  // namespace
}  // namespace accelerate::internal::launch
