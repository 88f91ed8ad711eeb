// A rank that keeps the others waiting is named in the log; only one that exceeds the timeout ends them.
#include "tests/faults/expectations.h"

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

class SlowRank : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, SlowRank, ::testing::Values("gloo", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SlowRank, IsNamedInOneLineOfLogAndTrainingGoesOn) {
  const auto ended = run_ranks({.fault = "slow", .backend = GetParam()});
  for (const Ended& rank : ended) EXPECT_EQ(rank.exit_code, 0) << rank.text;
  EXPECT_THAT(lines(ended[0].text),
              ElementsAre(MatchesRegex("accelerate: \\[rank 0\\] waiting for [0-9.]+ s in all_gather; not there yet: "
                                       "rank 1"),
                          "rank 0 trained"));
}

TEST_P(SlowRank, EndsTheOthersAfterTheTimeout) {
  const auto ended = run_ranks({.fault = "too_slow", .backend = GetParam(), .ranks = 3});
  for (const int rank : {0, 2}) {
    EXPECT_THAT(failure(ended[rank]), AllOf(StartsWith("error on rank " + std::to_string(rank) + ": [all_gather"),
                                            HasSubstr("] Rank 1 did not come "), HasSubstr("expected all 3 ranks")));
  }
  EXPECT_THAT(failure(ended[1]), StartsWith("error on rank 1: [all_"));
}

// Fewer samples than ranks are no fault: each rank gets a batch, filled up from the start of the data.
TEST_P(SlowRank, ADataSetSmallerThanTheNumberOfRanksIsFilledUp) {
  for (const Ended& rank : run_ranks({.fault = "small_data", .backend = GetParam(), .ranks = 3})) {
    EXPECT_EQ(rank.exit_code, 0);
    EXPECT_THAT(rank.text, AllOf(StartsWith("rank "), EndsWith(" trained\n")));
  }
}

}  // namespace
}  // namespace accelerate::faults
