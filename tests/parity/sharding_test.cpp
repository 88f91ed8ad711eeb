// Which samples each rank gets, for hundreds of combinations that the original answered.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "accelerate/data/sampler.h"
#include "accelerate/data/shard.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

using accelerate::ShardPlan;

struct Case {
  int64_t samples = 0, batch_size = 0, ranks = 0;
  bool split = false, drop_last = false, ragged = false;

  /// "samples 9 batch 2 ranks 4 split drop_last ragged", the last three optional.
  explicit Case(const std::string& key) {
    std::istringstream words(key);
    std::string word;
    while (words >> word) {
      if (word == "samples") words >> samples;
      if (word == "batch") words >> batch_size;
      if (word == "ranks") words >> ranks;
      split |= word == "split";
      drop_last |= word == "drop_last";
      ragged |= word == "ragged";
    }
  }
  ShardPlan plan(int64_t rank) const {
    return {.samples = samples,
            .batch_size = split ? batch_size / ranks : batch_size,
            .drop_last = drop_last,
            .shard = {.rank = rank, .size = ranks, .even_batches = !ragged, .split_batches = split}};
  }
};

/// [3, 4, 5, 0, 1] as "3-5,0-1".
std::string runs(std::span<const int64_t> batch) {
  std::string text;
  for (size_t i = 0; i < batch.size();) {
    size_t end = i + 1;
    while (end < batch.size() && batch[end] == batch[end - 1] + 1) ++end;
    text += (i == 0 ? "" : ",") + std::to_string(batch[i]);
    if (end > i + 1) text += "-" + std::to_string(batch[end - 1]);
    i = end;
  }
  return text;
}

std::string table(const Case& c) {
  const std::vector<int64_t> order = accelerate::sequential_order(c.samples);
  std::vector<int64_t> filled;
  std::string text;
  for (int64_t rank = 0; rank < c.ranks; ++rank) {
    const ShardPlan plan = c.plan(rank);
    if (rank > 0) text += "|";
    for (int64_t i = 0; i < plan.batches(); ++i) text += (i == 0 ? "" : " ") + runs(plan.batch(order, i, filled));
  }
  return text;
}

TEST(Sharding, GivesEveryRankTheSamplesThatTheOriginalGives) {
  const Json tables = read_fixture("sharding.json").at("tables");
  ASSERT_GT(tables.size(), 2000U);
  for (const auto& [key, expected] : tables.items()) {
    const Case c(key);
    ASSERT_EQ(table(c), expected.at(0)) << key;
    EXPECT_EQ(c.plan(0).total_batch_size(), expected.at(3)) << key;
    if (!expected.at(2).is_null()) {
      EXPECT_EQ(c.plan(0).remainder(), expected.at(2)) << key;
    }
    for (int64_t rank = 0; rank < c.ranks; ++rank) {
      // The original counts a batch for ranks whose part of a split last batch is empty; their loops never see it.
      const auto batches = c.split && c.ragged ? c.plan(0).batches() : c.plan(rank).batches();
      EXPECT_EQ(batches, expected.at(1).at(static_cast<size_t>(rank))) << key << ", rank " << rank;
    }
  }
}

}  // namespace
}  // namespace parity
