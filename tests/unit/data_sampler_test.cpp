#include "accelerate/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "accelerate/tensor/seed.h"

namespace accelerate {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> sorted(std::vector<int64_t> order) {
  std::sort(order.begin(), order.end());
  return order;
}

RC_GTEST_PROP(SequentialOrder, CountsFromZero, ()) {
  const auto size = *rc::gen::inRange<int64_t>(0, 1000);
  const auto order = sequential_order(size);
  RC_ASSERT(static_cast<int64_t>(order.size()) == size);
  for (int64_t i = 0; i < size; ++i) RC_ASSERT(order[static_cast<size_t>(i)] == i);
}

RC_GTEST_PROP(ShuffledOrder, IsAPermutation, (uint64_t seed)) {
  const auto size = *rc::gen::inRange<int64_t>(0, 2000);
  const auto epoch = *rc::gen::inRange<int64_t>(0, 1'000'000);
  RC_ASSERT(sorted(shuffled_order(size, seed, epoch)) == sequential_order(size));
}

RC_GTEST_PROP(ShuffledOrder, DependsOnSizeSeedAndEpochAlone, (uint64_t seed, uint64_t something_else)) {
  const auto size = *rc::gen::inRange<int64_t>(0, 500);
  const auto epoch = *rc::gen::inRange<int64_t>(0, 100);
  const auto order = shuffled_order(size, seed, epoch);
  set_seed(something_else);
  shuffled_order(size + 1, seed + 1, epoch + 1);
  RC_ASSERT(shuffled_order(size, seed, epoch) == order);
}

// Two of 60! orders are equal once in 10^81 draws.
RC_GTEST_PROP(ShuffledOrder, EpochsDiffer, (uint64_t seed)) {
  const auto epoch = *rc::gen::inRange<int64_t>(0, 1'000'000);
  const auto further = *rc::gen::inRange<int64_t>(1, 1000);
  RC_ASSERT(shuffled_order(60, seed, epoch) != shuffled_order(60, seed, epoch + further));
}

RC_GTEST_PROP(ShuffledOrder, SeedsDiffer, (uint64_t seed, uint64_t other)) {
  RC_PRE(seed != other);
  RC_ASSERT(shuffled_order(60, seed, 0) != shuffled_order(60, other, 0));
}

RC_GTEST_PROP(ShuffledOrder, NeighbouringSeedsAndEpochsAreNotOneSequence, (uint64_t seed)) {
  const auto epoch = *rc::gen::inRange<int64_t>(0, 1'000'000);
  const auto order = shuffled_order(60, seed, epoch);
  RC_ASSERT(order != shuffled_order(60, seed + 1, epoch));
  RC_ASSERT(order != shuffled_order(60, seed + 1, epoch - 1));
  RC_ASSERT(order != shuffled_order(60, seed - 1, epoch + 1));
}

// A smaller data set's order is not the larger one's with some samples left out.
TEST(ShuffledOrder, SizesAreUnrelated) {
  const auto larger = shuffled_order(61, 7, 0);
  std::vector<int64_t> filtered;
  std::copy_if(larger.begin(), larger.end(), std::back_inserter(filtered), [](int64_t i) { return i < 60; });
  EXPECT_NE(filtered, shuffled_order(60, 7, 0));
}

// Runs that were started with an earlier version continue in the same order: these values never change. They were
// computed by another implementation of the documented method.
TEST(ShuffledOrder, GoldenOrders) {
  EXPECT_THAT(shuffled_order(0, 1, 1), IsEmpty());
  EXPECT_THAT(shuffled_order(1, 1, 1), ElementsAre(0));
  EXPECT_THAT(shuffled_order(10, 0, 0), ElementsAre(5, 2, 9, 6, 1, 8, 7, 3, 0, 4));
  EXPECT_THAT(shuffled_order(10, 0, 1), ElementsAre(3, 2, 0, 6, 8, 5, 1, 9, 4, 7));
  EXPECT_THAT(shuffled_order(10, 1, 0), ElementsAre(9, 7, 6, 0, 3, 1, 8, 5, 2, 4));
  EXPECT_THAT(shuffled_order(10, 42, 3), ElementsAre(7, 3, 2, 8, 1, 5, 6, 9, 0, 4));
  EXPECT_THAT(shuffled_order(10, 0xffffffffffffffff, 1'000'000), ElementsAre(3, 5, 4, 0, 7, 1, 9, 2, 8, 6));
}

TEST(ShuffledOrder, GoldenSumOfALongOrder) {
  const auto order = shuffled_order(100'000, 42, 7);
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a over the indices
  for (const int64_t index : order) hash = (hash ^ static_cast<uint64_t>(index)) * 0x100000001b3;
  EXPECT_EQ(hash, 5825827171655152225U);
}

// Pearson's statistic of counts against equal expectations.
double chi_square(const std::map<std::vector<int64_t>, int64_t>& counts, size_t cells, double draws) {
  const double expected = draws / static_cast<double>(cells);
  double sum = expected * static_cast<double>(cells - counts.size());
  for (const auto& [cell, count] : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}

// 24 orders of 4 samples over epochs of fixed seeds. 23 degrees of freedom: 49.7 is exceeded by chance once in a
// thousand seeds; the seeds are fixed, so the outcome is too.
TEST(ShuffledOrder, EpochsVisitAllOrdersEquallyOften) {
  for (const uint64_t seed : {0U, 1U, 42U}) {
    std::map<std::vector<int64_t>, int64_t> counts;
    constexpr int64_t kDraws = 24'000;
    for (int64_t epoch = 0; epoch < kDraws; ++epoch) ++counts[shuffled_order(4, seed, epoch)];
    EXPECT_EQ(counts.size(), 24U);
    EXPECT_LT(chi_square(counts, 24, kDraws), 49.7) << "seed " << seed;
  }
}

TEST(ShuffledOrder, SeedsVisitAllOrdersEquallyOften) {
  std::map<std::vector<int64_t>, int64_t> counts;
  constexpr int64_t kDraws = 24'000;
  for (int64_t seed = 0; seed < kDraws; ++seed) ++counts[shuffled_order(4, static_cast<uint64_t>(seed), 0)];
  EXPECT_EQ(counts.size(), 24U);
  EXPECT_LT(chi_square(counts, 24, kDraws), 49.7);
}

// Where sample i goes: 13 x 13 cells, (13 - 1)^2 = 144 degrees of freedom, 0.1 % quantile 200.
TEST(ShuffledOrder, EverySampleIsEquallyOftenAtEveryPlace) {
  constexpr int64_t kSize = 13;
  constexpr int64_t kDraws = 13'000;
  std::map<std::vector<int64_t>, int64_t> counts;
  for (int64_t epoch = 0; epoch < kDraws; ++epoch) {
    const auto order = shuffled_order(kSize, 5, epoch);
    for (int64_t place = 0; place < kSize; ++place) ++counts[{place, order[static_cast<size_t>(place)]}];
  }
  EXPECT_LT(chi_square(counts, kSize * kSize, kDraws * kSize), 200.0);
}

// Orders of neighbouring epochs are independent: 4 x 4 first samples of consecutive epochs; the 15 free cells have
// expected counts of 1,000; 0.1 % quantile 37.7.
TEST(ShuffledOrder, NeighbouringEpochsAreIndependent) {
  std::map<std::vector<int64_t>, int64_t> counts;
  constexpr int64_t kDraws = 16'000;
  int64_t previous = shuffled_order(4, 9, 0)[0];
  for (int64_t epoch = 1; epoch <= kDraws; ++epoch) {
    const int64_t first = shuffled_order(4, 9, epoch)[0];
    ++counts[{previous, first}];
    previous = first;
  }
  EXPECT_LT(chi_square(counts, 16, kDraws), 37.7);
}

}  // namespace
}  // namespace accelerate
