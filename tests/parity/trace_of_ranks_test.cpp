// Traces of the original in 2 and 4 processes, replayed by as many threads.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/testing/ranks.h"
#include "tests/parity/replay.h"

namespace parity {
namespace {

using accelerate::testing::Rank;

/// What each rank found: nothing where it did what the original did.
std::vector<std::string> replay_ranks(const Json& trace, const Json& problem) {
  const int64_t ranks = trace.at("configuration").at("processes");
  std::vector<std::string> found(static_cast<size_t>(ranks));
  // One that stops early would leave the others waiting, and what they say about that is not what was found.
  try {
    accelerate::testing::run_ranks(ranks, [&](const Rank& rank) {
      std::string& own = found[static_cast<size_t>(rank.rank())];
      own = replay(trace_of_rank(trace, rank.rank()), problem, rank.options());
      if (!own.empty()) throw std::runtime_error(own);
    });
  } catch (const std::exception& error) {
    bool any = false;
    for (const std::string& own : found) any |= !own.empty();
    if (!any) found.front() = error.what();
  }
  return found;
}

std::vector<std::string> all_agree(const Json& trace) {
  return std::vector<std::string>(trace.at("configuration").at("processes").get<size_t>());
}

class TraceOfRanks : public testing::TestWithParam<std::pair<int64_t, bool>> {
 protected:
  void SetUp() override { torch::set_num_threads(1); }
};

TEST_P(TraceOfRanks, IsReplayedWithTheSameNumbers) {
  const auto [ranks, product] = GetParam();
  const std::string folder = "traces-" + std::to_string(ranks);
  const Json problem = read_fixture("problem.json");
  int64_t replayed = 0;
  for (const std::string& name : all_traces(folder)) {
    if (name.starts_with("adamw-float64-every") != product) continue;
    const Json trace = read_fixture(folder + "/" + name);
    EXPECT_EQ(replay_ranks(trace, problem), all_agree(trace)) << name;
    ++replayed;
  }
  EXPECT_GE(replayed, 6);
}

INSTANTIATE_TEST_SUITE_P(Original, TraceOfRanks,
                         testing::Values(std::pair(2, true), std::pair(2, false), std::pair(4, true),
                                         std::pair(4, false)),
                         [](const auto& info) {
                           return (info.param.second ? "AdamWOf" : "OthersOf") + std::to_string(info.param.first);
                         });

// A comparison that never fails would prove nothing: a number of either rank, changed by a little, is found.
TEST(TraceOfRanksComparison, FindsOneChangedNumberOfEitherRank) {
  const Json problem = read_fixture("problem.json");
  const Json original = read_fixture("traces-2/adamw-float64-every2-norm-cosine-uneven.json");
  for (const size_t rank : {0U, 1U}) {
    Json changed = original;
    Json& loss = changed.at("losses").at("loss").at(rank).at(5);
    loss = loss.get<double>() + 1e-8;
    const std::vector<std::string> found = replay_ranks(changed, problem);
    EXPECT_NE(found.at(rank), "");
  }
}

}  // namespace
}  // namespace parity
