// What a group promises over every transport of CPU ranks, as ranks that are threads.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <atomic>
#include <latch>
#include <thread>

#include "accelerate/comm/connect.h"
#include "accelerate/core/error.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::same_bytes;
using testing::Rank;
using testing::run_ranks;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16,
                                      at::kLong,  at::kInt,    at::kChar, at::kByte};
constexpr int64_t kSizes[] = {0, 1, 7, 1000, 200'003};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct};

/// Whole numbers from 1 to 4, whose sums and products over a few ranks are exact in every dtype.
at::Tensor numbers(int64_t rank, int64_t size, at::ScalarType dtype) {
  return (at::arange(size, at::kLong) * 5 + 3 * rank).remainder(4).add(1).to(dtype);
}

at::Tensor combined(ReduceOp op, int64_t ranks, int64_t size, at::ScalarType dtype) {
  std::vector<at::Tensor> rows;
  for (int64_t rank = 0; rank < ranks; ++rank) rows.push_back(numbers(rank, size, at::kLong));
  const at::Tensor all = at::stack(rows);
  switch (op) {
    case ReduceOp::kMin:
      return all.amin(0).to(dtype);
    case ReduceOp::kMax:
      return all.amax(0).to(dtype);
    case ReduceOp::kProduct:
      return all.prod(0).to(dtype);
    default:
      return all.sum(0).to(dtype);
  }
}

class GroupContract : public ::testing::TestWithParam<const char*> {
 protected:
  static void on_ranks(int64_t size, const std::function<void(const Group&)>& body) {
    run_ranks(size, [&](const Rank& rank) { body(rank.group()); }, {.backend = GetParam()});
  }
};
INSTANTIATE_TEST_SUITE_P(Transports, GroupContract, ::testing::Values("gloo", "shm"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GroupContract, AllReduceIsTheSameEverywhere) {
  for (const int64_t ranks : {2, 3}) {
    on_ranks(ranks, [&](const Group& group) {
      for (const at::ScalarType dtype : kDtypes) {
        for (const int64_t size : kSizes) {
          for (const ReduceOp op : kOps) {
            const at::Tensor tensor = numbers(group.rank(), size, dtype);
            group.all_reduce(tensor, op).wait();
            EXPECT_TRUE(same_bytes(tensor, combined(op, ranks, size, dtype)))
                << static_cast<int>(op) << " of " << size << " " << dtype;
          }
        }
      }
    });
  }
}

TEST_P(GroupContract, TheMeanIsTheSumDividedByTheRanks) {
  on_ranks(4, [](const Group& group) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      const at::Tensor tensor = numbers(group.rank(), 9, dtype);
      group.all_reduce(tensor, ReduceOp::kMean).wait();
      EXPECT_TRUE(same_bytes(tensor, combined(ReduceOp::kSum, 4, 9, dtype).div(4)));
    }
  });
}

TEST_P(GroupContract, BroadcastComesFromAnyRank) {
  on_ranks(3, [](const Group& group) {
    for (const at::ScalarType dtype : kDtypes) {
      for (const int64_t size : kSizes) {
        for (int64_t root = 0; root < 3; ++root) {
          const at::Tensor tensor = numbers(group.rank(), size, dtype);
          group.broadcast(tensor, root).wait();
          EXPECT_TRUE(same_bytes(tensor, numbers(root, size, dtype))) << size << " " << dtype << " from " << root;
        }
      }
    }
  });
}

TEST_P(GroupContract, AllGatherKeepsTheOrderOfTheRanks) {
  on_ranks(3, [](const Group& group) {
    for (const at::ScalarType dtype : kDtypes) {
      for (const int64_t size : kSizes) {
        const at::Tensor all = group.all_gather(numbers(group.rank(), size, dtype));
        ASSERT_EQ(all.sizes(), at::IntArrayRef({3 * size}));
        for (int64_t rank = 0; rank < 3; ++rank) {
          EXPECT_TRUE(same_bytes(all.narrow(0, rank * size, size), numbers(rank, size, dtype))) << size << " " << dtype;
        }
      }
    }
  });
}

TEST_P(GroupContract, AllGatherTakesNumbersAndAnyLayout) {
  on_ranks(2, [](const Group& group) {
    EXPECT_TRUE(same_bytes(group.all_gather(at::scalar_tensor(group.rank() + 5, at::kLong)),
                           at::tensor(std::vector<int64_t>{5, 6})));
    const at::Tensor matrix = at::arange(12, at::kFloat).view({3, 4}).add(100 * group.rank());
    const at::Tensor all = group.all_gather(matrix.t());
    EXPECT_TRUE(same_bytes(all.narrow(0, 4 * group.rank(), 4), matrix.t()));
    EXPECT_EQ(all.sizes(), at::IntArrayRef({8, 3}));
    EXPECT_EQ(group.all_gather(at::empty({0, 4})).sizes(), at::IntArrayRef({0, 4}));
  });
}

TEST_P(GroupContract, WorkThatIsUnderWayMayBeWaitedForInAnyOrder) {
  on_ranks(3, [](const Group& group) {
    const at::Tensor a = numbers(group.rank(), 50'000, at::kFloat), b = numbers(group.rank(), 3, at::kLong);
    at::Tensor c = at::empty({3 * 11}, at::kDouble);
    Work first = group.all_reduce(a), second = group.broadcast(b, 2);
    Work third = group.all_gather_into(c, numbers(group.rank(), 11, at::kDouble));
    third.wait();
    second.wait();
    first.wait();
    first.wait();
    EXPECT_TRUE(first.is_completed());
    EXPECT_TRUE(same_bytes(a, combined(ReduceOp::kSum, 3, 50'000, at::kFloat)));
    EXPECT_TRUE(same_bytes(b, numbers(2, 3, at::kLong)));
    EXPECT_TRUE(same_bytes(c.narrow(0, 22, 11), numbers(2, 11, at::kDouble)));
  });
}

TEST_P(GroupContract, NobodyLeavesABarrierBeforeAllHaveCome) {
  std::atomic<int> came = 0;
  on_ranks(4, [&](const Group& group) {
    for (int round = 1; round <= 5; ++round) {
      ++came;
      group.barrier();
      EXPECT_GE(came, 4 * round);
      group.barrier();
    }
  });
}

TEST_P(GroupContract, SplitMakesGroupsInTheOrderOfTheRanks) {
  on_ranks(4, [](const Group& group) {
    const Group half = group.split(group.rank() % 2);
    EXPECT_EQ(half.size(), 2);
    EXPECT_EQ(half.rank(), group.rank() / 2);
    EXPECT_TRUE(same_bytes(half.all_gather(at::scalar_tensor(group.rank(), at::kLong)),
                           at::tensor(std::vector<int64_t>{group.rank() % 2, group.rank() % 2 + 2})));
    const Group alone = group.split(group.rank());
    EXPECT_EQ(alone.size(), 1);
    const Group all = group.split(7);
    EXPECT_EQ(all.rank(), group.rank());
    EXPECT_EQ(all.split(0).size(), 4);
  });
}

// Collectives of any sizes after one another: none sees anything of another.
TEST_P(GroupContract, SumsOfAnySequenceOfSizes) {
  const std::string backend = GetParam();
  EXPECT_TRUE(rc::check([&] {
    const auto ranks = *rc::gen::inRange<int64_t>(2, 5);
    const auto sizes =
        *rc::gen::resize(12, rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, 3000)));
    std::atomic<int> wrong = 0;
    run_ranks(ranks,
              [&](const Rank& rank) {
                const Group group = rank.group();
                for (const int64_t size : sizes) {
                  const at::Tensor tensor = numbers(group.rank(), size, at::kDouble);
                  group.all_reduce(tensor).wait();
                  wrong += !same_bytes(tensor, combined(ReduceOp::kSum, ranks, size, at::kDouble));
                  wrong += group.all_gather(tensor).numel() != ranks * size;
                }
              },
              {.backend = backend});
    RC_ASSERT(wrong == 0);
  }));
}

TEST_P(GroupContract, ARankThatDoesNotComeInTimeIsNamed) {
  const StoreHandle store(c10::make_intrusive<c10d::HashStore>());
  std::latch over(1);
  std::string said;
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const Group group = internal::connect({.world = {.rank = rank, .size = 2, .local_rank = rank, .local_size = 2},
                                             .rendezvous = {},
                                             .store = store,
                                             .process_group = {},
                                             .backend = GetParam(),
                                             .timeout = std::chrono::milliseconds(300),
                                             .rendezvous_timeout = std::chrono::seconds(30),
                                             .liveness = {.interval = std::chrono::milliseconds(20)}},
                                            Log([](LogLevel, std::string_view) {}, rank));
      group.barrier();
      if (rank == 0) {
        try {
          group.all_reduce(at::ones({3})).wait();
        } catch (const CommError& error) {
          said = error.what();
        }
        over.count_down();
      }
      over.wait();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(said, ::testing::MatchesRegex("\\[all_reduce\\] Rank 1 did not come .*: got rank 0 waiting for .*"));
}

}  // namespace
}  // namespace accelerate
