// Bytes of any length between ranks: those that travel with their length, and those that go again.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

#include "accelerate/comm/objects.h"
#include "accelerate/testing/ranks.h"

namespace {

using accelerate::internal::all_gather_bytes;
using accelerate::internal::broadcast_bytes;
using accelerate::internal::gather_bytes;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

/// Depends on the rank and on the place.
std::string text(size_t length, size_t rank) {
  std::string bytes(length, '\0');
  for (size_t i = 0; i < length; ++i) bytes[i] = static_cast<char>(i * 7 + rank * 31);
  return bytes;
}

RC_GTEST_PROP(BytesOfRanks, AreWhatEachRankSent, ()) {
  const auto ranks = *rc::gen::element<size_t>(1, 2, 3, 4);
  const auto backend = *rc::gen::element<std::string>("gloo", "shm");
  // 2040 is the last length that fits beside the length itself.
  const auto lengths = *rc::gen::container<std::vector<size_t>>(
      ranks, rc::gen::oneOf(rc::gen::inRange<size_t>(0, 5), rc::gen::inRange<size_t>(2035, 2055),
                            rc::gen::inRange<size_t>(0, 5000)));
  const auto from = *rc::gen::inRange<size_t>(0, ranks);
  std::vector<std::string> expected;
  for (size_t rank = 0; rank < ranks; ++rank) expected.push_back(text(lengths[rank], rank));
  run_ranks(static_cast<int64_t>(ranks),
            [&](const Rank& rank) {
              const accelerate::Group group = rank.group();
              const std::string own = expected[static_cast<size_t>(rank.rank())];
              EXPECT_EQ(all_gather_bytes(group, own), expected);
              const auto gathered = gather_bytes(group, own);
              EXPECT_EQ(std::vector<std::string>(gathered.ranks.begin(), gathered.ranks.end()), expected);
              EXPECT_EQ(broadcast_bytes(group, own, static_cast<int64_t>(from)), expected[from]);
            },
            {.backend = backend});
}

}  // namespace
