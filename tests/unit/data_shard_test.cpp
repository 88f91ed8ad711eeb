// ShardPlan: how an order is cut into the batches of one rank. The tables of the original are tests/parity's.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "accelerate/data/sampler.h"
#include "accelerate/data/shard.h"

namespace accelerate {
namespace {

using Batches = std::vector<std::vector<int64_t>>;

struct Case {
  ShardPlan plan;
  std::vector<int64_t> order;

  ShardPlan of_rank(int64_t rank) const {
    ShardPlan plan_of_rank = plan;
    plan_of_rank.shard.rank = rank;
    return plan_of_rank;
  }
  Batches batches_of(int64_t rank) const {
    const ShardPlan own = of_rank(rank);
    Batches batches;
    std::vector<int64_t> filled;
    for (int64_t i = 0; i < own.batches(); ++i) {
      const auto batch = own.batch(order, i, filled);
      batches.emplace_back(batch.begin(), batch.end());
    }
    return batches;
  }
};

Case any_case(int64_t least_ranks = 1) {
  const auto samples = *rc::gen::inRange<int64_t>(1, 300);
  const ShardPlan plan{
      .samples = samples,
      .batch_size = *rc::gen::inRange<int64_t>(1, 20),
      .drop_last = *rc::gen::arbitrary<bool>(),
      .shard = {.size = *rc::gen::inRange<int64_t>(least_ranks, 10), .even_batches = *rc::gen::arbitrary<bool>()}};
  return {plan, shuffled_order(samples, *rc::gen::arbitrary<uint64_t>(), 0)};
}

Case one_rank() {
  Case chosen = any_case();
  chosen.plan.shard.size = 1;
  return chosen;
}

RC_GTEST_PROP(ShardPlan, BatchesOfOneRankAreTheOrderCutInPieces, ()) {
  const Case c = one_rank();
  std::vector<int64_t> joined;
  for (const auto& batch : c.batches_of(0)) joined.insert(joined.end(), batch.begin(), batch.end());
  const auto kept = c.plan.drop_last ? c.plan.samples - c.plan.samples % c.plan.batch_size : c.plan.samples;
  RC_ASSERT(joined == std::vector<int64_t>(c.order.begin(), c.order.begin() + kept));
}

RC_GTEST_PROP(ShardPlan, OnlyTheLastBatchMayBeShortAndNoneIsEmpty, ()) {
  const Case c = any_case();
  const bool always_full = c.plan.drop_last || (c.plan.shard.even_batches && c.plan.shard.size > 1);
  for (int64_t rank = 0; rank < c.plan.shard.size; ++rank) {
    const Batches batches = c.batches_of(rank);
    for (size_t i = 0; i < batches.size(); ++i) {
      const auto size = static_cast<int64_t>(batches[i].size());
      RC_ASSERT(size >= 1);
      RC_ASSERT(size <= c.plan.batch_size);
      if (i + 1 < batches.size() || always_full) RC_ASSERT(size == c.plan.batch_size);
    }
  }
}

RC_GTEST_PROP(ShardPlan, EverySampleIsSeenAndOnlyFillingRepeatsSome, ()) {
  const Case c = any_case(2);
  RC_PRE(!c.plan.drop_last);
  std::vector<int64_t> seen;
  for (int64_t rank = 0; rank < c.plan.shard.size; ++rank) {
    for (const auto& batch : c.batches_of(rank)) seen.insert(seen.end(), batch.begin(), batch.end());
  }
  RC_ASSERT(std::set<int64_t>(seen.begin(), seen.end()).size() == static_cast<size_t>(c.plan.samples));
  const int64_t repeated = static_cast<int64_t>(seen.size()) - c.plan.samples;
  if (c.plan.shard.even_batches) {
    RC_ASSERT(repeated < c.plan.total_batch_size());
    RC_ASSERT((c.plan.samples + repeated) % c.plan.total_batch_size() == 0);
  } else {
    RC_ASSERT(repeated == 0);
  }
}

RC_GTEST_PROP(ShardPlan, WithDropLastNothingIsRepeatedAndLessThanARoundIsLost, ()) {
  Case c = any_case(2);
  c.plan.drop_last = true;
  std::set<int64_t> seen;
  int64_t count = 0;
  for (int64_t rank = 0; rank < c.plan.shard.size; ++rank) {
    for (const auto& batch : c.batches_of(rank)) {
      seen.insert(batch.begin(), batch.end());
      count += static_cast<int64_t>(batch.size());
    }
  }
  RC_ASSERT(static_cast<int64_t>(seen.size()) == count);
  RC_ASSERT(c.plan.samples - count < c.plan.total_batch_size());
}

RC_GTEST_PROP(ShardPlan, RanksHaveAsManyBatchesUnlessEndsAreRagged, ()) {
  const Case c = any_case(2);
  const bool ragged = !c.plan.drop_last && !c.plan.shard.even_batches;
  int64_t before = c.of_rank(0).batches();
  for (int64_t rank = 1; rank < c.plan.shard.size; ++rank) {
    const int64_t batches = c.of_rank(rank).batches();
    RC_ASSERT(batches <= before);
    RC_ASSERT(c.of_rank(0).batches() - batches <= (ragged ? 1 : 0));
    before = batches;
  }
}

// Rank after rank, a round is what one process with the whole batch sees: the update is the same.
RC_GTEST_PROP(ShardPlan, RoundsOfAllRanksAreTheBatchesOfOneRankWithTheWholeBatch, ()) {
  Case c = any_case(2);
  Case whole = c;
  whole.plan.batch_size = c.plan.total_batch_size();
  whole.plan.shard.size = 1;
  const Batches expected = whole.batches_of(0);
  std::vector<Batches> ranks;
  for (int64_t rank = 0; rank < c.plan.shard.size; ++rank) ranks.push_back(c.batches_of(rank));
  RC_ASSERT(ranks[0].size() == expected.size());
  for (size_t round = 0; round < expected.size(); ++round) {
    std::vector<int64_t> joined;
    for (const Batches& rank : ranks) {
      if (round < rank.size()) joined.insert(joined.end(), rank[round].begin(), rank[round].end());
    }
    RC_ASSERT(joined.size() >= expected[round].size());
    RC_ASSERT(std::equal(expected[round].begin(), expected[round].end(), joined.begin()));
    // What follows is filled in: the start of the pass, as often as needed.
    for (size_t i = expected[round].size(); i < joined.size(); ++i) {
      const size_t supply = expected[0].size();
      RC_ASSERT(joined[i] == c.order[(i - expected[round].size()) % supply]);
    }
  }
}

RC_GTEST_PROP(ShardPlan, TheRemainderIsTheSizeOfALastRoundThatIsNotFull, ()) {
  const Case c = any_case();
  if (c.plan.drop_last) {
    RC_ASSERT(c.plan.remainder() == -1);
    return;
  }
  const int64_t total = c.plan.total_batch_size();
  const int64_t rounds = (c.plan.samples + total - 1) / total;
  const int64_t last = c.plan.samples - (rounds - 1) * total;
  RC_ASSERT(c.plan.remainder() == (last == total ? 0 : last));
}

RC_GTEST_PROP(ShardPlan, DroppingTheLastOneChangesAtMostOneBatch, ()) {
  Case c = any_case();
  c.plan.drop_last = false;
  const int64_t all = c.plan.batches();
  c.plan.drop_last = true;
  RC_ASSERT(all - c.plan.batches() == (c.plan.samples % c.plan.total_batch_size() == 0 ? 0 : 1));
}

TEST(ShardPlan, BatchesLookIntoTheOrderInsteadOfCopyingIt) {
  const std::vector<int64_t> order{4, 3, 2, 1, 0};
  std::vector<int64_t> filled;
  const ShardPlan one{.samples = 5, .batch_size = 2};
  EXPECT_EQ(one.batch(order, 1, filled).data(), order.data() + 2);
  EXPECT_EQ(one.batch(order, 2, filled).size(), 1U);
  const ShardPlan second{.samples = 5, .batch_size = 1, .shard = {.rank = 1, .size = 2}};
  EXPECT_EQ(second.batch(order, 1, filled).data(), order.data() + 3);
  EXPECT_TRUE(filled.empty());
  EXPECT_EQ(second.batch(order, 2, filled).front(), 4) << "from the start of the pass, not the first sample";
}

}  // namespace
}  // namespace accelerate
