#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

#include "accelerate/data/sampler.h"

namespace accelerate {
namespace {

struct Case {
  BatchPlan plan;
  std::vector<int64_t> order;
};

Case any_case() {
  const auto samples = *rc::gen::inRange<int64_t>(0, 300);
  const BatchPlan plan{
      .samples = samples, .batch_size = *rc::gen::inRange<int64_t>(1, 50), .drop_last = *rc::gen::arbitrary<bool>()};
  return {plan, shuffled_order(samples, *rc::gen::arbitrary<uint64_t>(), 0)};
}

RC_GTEST_PROP(BatchPlan, BatchesAreTheOrderCutInPieces, ()) {
  const auto [plan, order] = any_case();
  std::vector<int64_t> joined;
  for (int64_t i = 0; i < plan.batches(); ++i) {
    const auto batch = plan.batch(order, i);
    joined.insert(joined.end(), batch.begin(), batch.end());
  }
  const auto kept = plan.drop_last ? plan.samples - plan.samples % plan.batch_size : plan.samples;
  RC_ASSERT(joined == std::vector<int64_t>(order.begin(), order.begin() + kept));
}

RC_GTEST_PROP(BatchPlan, OnlyTheLastBatchMayBeShortAndNoneIsEmpty, ()) {
  const auto [plan, order] = any_case();
  for (int64_t i = 0; i < plan.batches(); ++i) {
    const auto size = static_cast<int64_t>(plan.batch(order, i).size());
    RC_ASSERT(size >= 1);
    RC_ASSERT(size <= plan.batch_size);
    if (i + 1 < plan.batches() || plan.drop_last) RC_ASSERT(size == plan.batch_size);
  }
}

RC_GTEST_PROP(BatchPlan, TheRemainderIsTheSizeOfAShortLastBatch, ()) {
  const auto [plan, order] = any_case();
  if (plan.drop_last) {
    RC_ASSERT(plan.remainder() == -1);
    return;
  }
  if (plan.batches() == 0) {
    RC_ASSERT(plan.remainder() == 0);
    return;
  }
  const auto last = static_cast<int64_t>(plan.batch(order, plan.batches() - 1).size());
  RC_ASSERT(plan.remainder() == (last == plan.batch_size ? 0 : last));
}

RC_GTEST_PROP(BatchPlan, DroppingTheLastOneChangesAtMostOneBatch, ()) {
  auto [plan, order] = any_case();
  plan.drop_last = false;
  const int64_t all = plan.batches();
  plan.drop_last = true;
  const int64_t full = plan.batches();
  RC_ASSERT(all - full == (plan.samples % plan.batch_size == 0 ? 0 : 1));
}

TEST(BatchPlan, BatchesLookIntoTheOrderInsteadOfCopyingIt) {
  const std::vector<int64_t> order{4, 3, 2, 1, 0};
  const BatchPlan plan{.samples = 5, .batch_size = 2};
  EXPECT_EQ(plan.batch(order, 1).data(), order.data() + 2);
  EXPECT_EQ(plan.batch(order, 2).size(), 1U);
}

}  // namespace
}  // namespace accelerate
