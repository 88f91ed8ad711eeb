// The same faults in a launch: the launcher names the first rank that failed, and nothing is left.
#include "tests/faults/expectations.h"

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Launched : public ::testing::TestWithParam<const char*> {
 protected:
  static std::string failing(const std::string& fault, int faulty = 1) {
    const Ended ended = run_launched({.fault = fault, .backend = GetParam(), .faulty = faulty});
    EXPECT_NE(ended.exit_code, 0) << ended.text;
    EXPECT_FALSE(ended.by_us) << ended.text;
    EXPECT_FALSE(ended.leftover);
    EXPECT_THAT(ended.text, Not(HasSubstr("frame #")));
    EXPECT_THAT(ended.text, Not(HasSubstr("terminate called")));
    return ended.text;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, Launched, ::testing::Values("gloo", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Launched, TrainsWithoutAFault) {
  const Ended ended = run_launched({.fault = "none", .backend = GetParam()});
  EXPECT_EQ(ended.exit_code, 0) << ended.text;
  EXPECT_THAT(lines(ended.text), ::testing::UnorderedElementsAre("rank 0 trained", "rank 1 trained"));
}

TEST_P(Launched, NamesAKilledRank) {
  EXPECT_THAT(failing("killed"),
              AllOf(HasSubstr("[launch] Rank 1 of 2 (process "),
                    HasSubstr(") was the first to fail: got SIGKILL (Killed), expected exit code 0")));
  EXPECT_THAT(failing("killed", 0), HasSubstr("[launch] Rank 0 of 2 (process "));
}

// A rank that stands still does not fail: the first to fail is one that lost it, and says so.
TEST_P(Launched, ShowsWhyTheRanksOfAStoppedOneEnd) {
  EXPECT_THAT(failing("stopped"), AllOf(HasSubstr("[launch] Rank 0 of 2 (process "),
                                        HasSubstr(") was the first to fail: got exit code 1, expected exit code 0."),
                                        HasSubstr("  | error on rank 0: [all_gather"), HasSubstr("Rank 1 is lost")));
}

// A rank that loses another one may have ended before the one that threw has; it says whose output to look at.
TEST_P(Launched, ShowsTheExceptionOfTheRankThatThrew) {
  EXPECT_THAT(failing("exception"),
              AllOf(HasSubstr("error on rank 1: this rank's own trouble"), HasSubstr("was the first to fail: got exit"),
                    AnyOf(HasSubstr("  | error on rank 1: this rank's own trouble"),
                          AllOf(HasSubstr("  | error on rank 0: [all_gather"), HasSubstr("] Rank 1 has ")))));
}

TEST_P(Launched, ShowsWhichShapesDiffer) {
  EXPECT_THAT(failing("other_shape_gather"), AllOf(HasSubstr("of 2 (process "), HasSubstr("  | error on rank ")));
}

}  // namespace
}  // namespace accelerate::faults
