// A rank that is gone, whatever the way: every other one says so in one paragraph and ends.
#include "tests/faults/expectations.h"

#include <ostream>

namespace accelerate::faults {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Loss {
  const char* fault;
  const char* backend;
  int ranks;
  int faulty;
  int exit_code;     ///< of the faulty rank
  const char* said;  ///< about it, after "Rank n"
};

std::string name_of(const Loss& loss) {
  return std::string(loss.fault) + "_" + loss.backend + "_rank_" + std::to_string(loss.faulty) + "_of_" +
         std::to_string(loss.ranks);
}

void PrintTo(const Loss& loss, std::ostream* out) { *out << name_of(loss); }

class LostRank : public ::testing::TestWithParam<Loss> {};

TEST_P(LostRank, IsNamedByEveryOtherRankWithTheOperation) {
  const Loss& loss = GetParam();
  const auto ended =
      run_ranks({.fault = loss.fault, .backend = loss.backend, .ranks = loss.ranks, .faulty = loss.faulty});
  for (int rank = 0; rank < loss.ranks; ++rank) {
    if (rank == loss.faulty) {
      EXPECT_EQ(ended[rank].exit_code, loss.exit_code) << ended[rank].text;
      EXPECT_FALSE(ended[rank].leftover);
      continue;
    }
    EXPECT_THAT(failure(ended[rank]),
                AllOf(StartsWith("error on rank " + std::to_string(rank) + ": [all_gather"),
                      HasSubstr("] Rank " + std::to_string(loss.faulty) + " " + loss.said),
                      HasSubstr("got rank " + std::to_string(rank) + " waiting for "),
                      HasSubstr("expected all " + std::to_string(loss.ranks) + " ranks"), EndsWith(".")));
  }
  EXPECT_THAT(shared_memory(), ::testing::IsEmpty());
}

constexpr int kKilled = 137;

INSTANTIATE_TEST_SUITE_P(
    Gloo, LostRank,
    ::testing::Values(Loss{"killed", "gloo", 3, 1, kKilled, "is lost: no sign of life for 3."},
                      Loss{"killed", "gloo", 3, 0, kKilled, "is lost: the store it serves broke off ("},
                      Loss{"stopped", "gloo", 2, 1, kKilled, "is lost: no sign of life for 3."},
                      Loss{"stopped", "gloo", 2, 0, kKilled, "is lost: the store it serves gave no answer for 3.0 s"},
                      Loss{"exception", "gloo", 3, 1, 1, "has left: an exception ended its training"},
                      Loss{"exception", "gloo", 2, 0, 1, "has left: an exception ended its training"},
                      Loss{"in_backward", "gloo", 2, 1, 1, "has left: an exception ended its training"},
                      Loss{"exit", "gloo", 2, 1, 0, "is lost: no sign of life for 3."},
                      Loss{"quick_exit", "gloo", 2, 1, 0, "is lost: no sign of life for 3."},
                      Loss{"ended_early", "gloo", 2, 1, 0, "has left: it ended training"}),
    [](const auto& info) { return name_of(info.param); });

INSTANTIATE_TEST_SUITE_P(
    Shm, LostRank,
    ::testing::Values(Loss{"killed", "shm", 3, 1, kKilled, "has ended"},
                      Loss{"killed", "shm", 3, 0, kKilled, "has ended"},
                      Loss{"stopped", "shm", 2, 1, kKilled, "is lost: no sign of life for 3."},
                      Loss{"stopped", "shm", 2, 0, kKilled, "is lost: the store it serves gave no answer for 3.0 s"},
                      Loss{"exception", "shm", 3, 1, 1, "has "}, Loss{"exception", "shm", 2, 0, 1, "has "},
                      Loss{"in_backward", "shm", 2, 1, 1, "has "}, Loss{"exit", "shm", 2, 1, 0, "has ended"},
                      Loss{"quick_exit", "shm", 2, 1, 0, "has ended"}, Loss{"ended_early", "shm", 2, 1, 0, "has "}),
    [](const auto& info) { return name_of(info.param); });

// The rank that fails says its own trouble, not that of the others.
class FailingRank : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, FailingRank, ::testing::Values("gloo", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(FailingRank, SaysItsOwnTrouble) {
  const auto thrown = run_ranks({.fault = "exception", .backend = GetParam()});
  EXPECT_EQ(failure(thrown[1]), "error on rank 1: this rank's own trouble");
  const auto within = run_ranks({.fault = "in_backward", .backend = GetParam()});
  EXPECT_EQ(failure(within[1]), "error on rank 1: thrown within backward");
}

}  // namespace
}  // namespace accelerate::faults
