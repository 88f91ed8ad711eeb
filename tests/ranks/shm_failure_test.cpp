// Ranks that end, stop, leave, never come or call something else: every other rank gets an error that says who and
// what.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <latch>
#include <thread>

#include "accelerate/core/error.h"
#include "tests/ranks/shm_ranks.h"

namespace accelerate::ranks_test {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

std::string sum(c10d::Backend& backend, int64_t elements, at::ScalarType dtype = at::kFloat) {
  std::vector<at::Tensor> tensors{at::ones({elements}, dtype)};
  backend.allreduce(tensors)->wait();
  return {};
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Small tensors take one fence, long ones many: the rank ends at any point of them.
class KilledRank : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(ShmFailure, KilledRank, ::testing::Values(1, 10'000, 3'000'000));

TEST_P(KilledRank, IsNamedByEveryOtherRank) {
  const auto ended = run_processes(3, [](c10d::Backend& backend, int rank) -> std::string {
    sum(backend, 1);
    std::thread killer;
    if (rank == 1) {
      killer = std::thread([] {
        ::usleep(20'000);  // some moment within the calls below
        ::kill(::getpid(), SIGKILL);
      });
    }
    while (true) sum(backend, GetParam());
  });
  EXPECT_EQ(ended[1].signal, SIGKILL);
  for (const int rank : {0, 2}) {
    EXPECT_THAT(ended[rank].text, StartsWith("[thrown] [all_reduce] Rank 1 has ended: got rank "));
    EXPECT_THAT(ended[rank].text,
                HasSubstr("expected all 3 ranks of group `test` in all_reduce(sum) of " + std::to_string(GetParam())));
  }
}

TEST(ShmFailure, ARankThatExitsBetweenCallsIsNamed) {
  const auto ended = run_processes(2, [](c10d::Backend& backend, int rank) -> std::string {
    sum(backend, 5);
    if (rank == 0) ::_exit(0);
    return sum(backend, 5);
  });
  EXPECT_THAT(ended[1].text, StartsWith("[thrown] [all_reduce] Rank 0 has ended: got rank 1 waiting for "));
}

// What it still owes nobody is no error: the others have all they need.
TEST(ShmFailure, ARankMayEndAfterItsLastCollective) {
  const auto ended = run_processes(4, [](c10d::Backend& backend, int rank) -> std::string {
    for (int i = 0; i < 20; ++i) sum(backend, 400'000);
    if (rank % 2 == 0) ::_exit(0);
    return {};
  });
  for (const Ended& rank : ended) EXPECT_EQ(rank.text, "");
}

TEST(ShmFailure, AStoppedRankIsMissedAfterTheTimeout) {
  const auto stop = [](c10d::Backend& backend, int rank) -> std::string {
    sum(backend, 3);
    if (rank == 2) ::raise(SIGSTOP);
    return sum(backend, 3);
  };
  const auto ended = run_processes(3, stop, {.timeout = std::chrono::milliseconds(300)});
  for (const int rank : {0, 1}) {
    EXPECT_THAT(ended[rank].text,
                AllOf(StartsWith("[thrown] [all_reduce] Rank 2 did not come within 300 ms: got rank "),
                      HasSubstr("in call 2 of the group"), HasSubstr("all_reduce(sum) of 3 x Float")));
  }
}

TEST(ShmFailure, TheTimeoutOfACallWins) {
  std::latch over(1);
  const auto texts = run_threads(2, [&](c10d::Backend& backend, int rank) -> std::string {
    if (rank == 1) {
      over.wait();
      return {};
    }
    const auto text = error_of([&] { backend.barrier({.timeout = std::chrono::milliseconds(120)}); });
    over.count_down();
    return text;
  });
  EXPECT_THAT(texts[0], StartsWith("[barrier] Rank 1 did not come within 120 ms: got rank 0 waiting for "));
}

TEST(ShmFailure, ARankThatLeavesIsNamed) {
  const auto texts = run_threads(3, [](c10d::Backend& backend, int rank) {
    if (rank == 1) return std::string();  // destroys its backend
    return sum(backend, 3);
  });
  for (const int rank : {0, 2})
    EXPECT_THAT(texts[rank], StartsWith("[thrown] [all_reduce] Rank 1 has closed its group"));
}

TEST(ShmFailure, WhatIsKnownAboutALostRankEndsTheWait) {
  std::atomic<int> asked = 0;
  std::latch over(1);
  const auto lost = [&]() -> std::optional<std::string> {
    if (++asked < 2) return std::nullopt;
    return "Rank 1 on host b is lost";
  };
  const auto texts = run_threads(2,
                                 [&](c10d::Backend& backend, int rank) -> std::string {
                                   if (rank == 1) {
                                     over.wait();
                                     return {};
                                   }
                                   const auto text = error_of([&] { sum(backend, 3); });
                                   over.count_down();
                                   return text;
                                 },
                                 {.lost = lost});
  EXPECT_THAT(texts[0], StartsWith("[all_reduce] Rank 1 on host b is lost: got rank 0 waiting for "));
}

TEST(ShmFailure, AbortEndsAWait) {
  std::latch over(1);
  const auto texts = run_threads(2, [&](c10d::Backend& backend, int rank) -> std::string {
    if (rank == 1) {
      over.wait();
      return {};
    }
    std::thread other([&] { backend.abort(); });
    const auto text = error_of([&] { sum(backend, 3); });
    other.join();
    over.count_down();
    return text;
  });
  EXPECT_THAT(texts[0], StartsWith("[all_reduce] The group was aborted by another thread of rank 0"));
}

TEST(ShmFailure, ABrokenGroupStaysBrokenWithTheSameError) {
  const auto texts = run_threads(2, [](c10d::Backend& backend, int rank) -> std::string {
    const auto first = error_of([&] { sum(backend, rank == 0 ? 3 : 4); });
    const auto second = error_of([&] { backend.barrier(); });
    return first == second ? first : first + " and then " + second;
  });
  EXPECT_THAT(texts, Each(StartsWith("[all_reduce] The ranks of group `test` call different things")));
  EXPECT_THAT(texts, Each(::testing::Not(HasSubstr("and then"))));
}

TEST(ShmFailure, AClosedGroupTakesNoCalls) {
  const auto texts = run_threads(2, [](c10d::Backend& backend, int) {
    sum(backend, 3);
    backend.shutdown();
    return error_of([&] { sum(backend, 3); });
  });
  EXPECT_THAT(texts, Each(StartsWith("[all_reduce] The group is closed: got all_reduce(sum) of 3 x Float")));
}

// Pairs of calls that must not meet, and what every rank says of them. Rank 1 calls `odd`, the others `usual`.
struct Mismatch {
  const char* name;
  std::function<void(c10d::Backend&)> usual, odd;
  const char* said;
};
std::vector<at::Tensor> ones(int64_t elements, at::ScalarType dtype = at::kFloat) {
  return {at::ones({elements}, dtype)};
}
std::vector<Mismatch> mismatches() {
  const auto reduce = [](int64_t elements, at::ScalarType dtype, c10d::ReduceOp::RedOpType reduction) {
    return [=](c10d::Backend& backend) {
      auto tensors = ones(elements, dtype);
      backend.allreduce(tensors, {.reduceOp = reduction});
    };
  };
  const auto broadcast = [](int64_t elements, int64_t root) {
    return [=](c10d::Backend& backend) {
      auto tensors = ones(elements);
      backend.broadcast(tensors, {.rootRank = root});
    };
  };
  const auto usual = reduce(3, at::kFloat, c10d::ReduceOp::SUM);
  const auto splits = [](int64_t rows) {
    return [=](c10d::Backend& backend) {
      at::Tensor input = at::zeros({3 * rows}), output = at::zeros({3 * rows});
      std::vector<int64_t> none;
      backend.alltoall_base(output, input, none, none);
    };
  };
  const auto list = [](std::vector<int64_t> sizes) {
    return [=](c10d::Backend& backend) {
      std::vector<at::Tensor> inputs, outputs;
      for (const int64_t size : sizes) {
        inputs.push_back(at::ones({size}));
        outputs.push_back(at::zeros({3 * size}));
      }
      backend.allgather_into_tensor_coalesced(outputs, inputs);
    };
  };
  return {
      {"Count", usual, reduce(4, at::kFloat, c10d::ReduceOp::SUM),
       "got ranks 0, 2: all_reduce(sum) of 3 x Float; rank 1: all_reduce(sum) of 4 x Float"},
      {"CountOfLong", reduce(1 << 20, at::kFloat, c10d::ReduceOp::SUM), reduce(1, at::kFloat, c10d::ReduceOp::SUM),
       "got ranks 0, 2: all_reduce(sum) of 1048576 x Float; rank 1: all_reduce(sum) of 1 x Float"},
      {"Dtype", usual, reduce(3, at::kInt, c10d::ReduceOp::SUM),
       "got ranks 0, 2: all_reduce(sum) of 3 x Float; rank 1: all_reduce(sum) of 3 x Int"},
      {"Reduction", usual, reduce(3, at::kFloat, c10d::ReduceOp::MAX),
       "got ranks 0, 2: all_reduce(sum) of 3 x Float; rank 1: all_reduce(max) of 3 x Float"},
      {"Operation", usual, broadcast(3, 0),
       "got ranks 0, 2: all_reduce(sum) of 3 x Float; rank 1: broadcast(root 0) of 3 x Float"},
      {"Root", broadcast(3, 0), broadcast(3, 1),
       "got ranks 0, 2: broadcast(root 0) of 3 x Float; rank 1: broadcast(root 1) of 3 x Float"},
      {"Barrier", usual, [](c10d::Backend& backend) { backend.barrier(); },
       "got ranks 0, 2: all_reduce(sum) of 3 x Float; rank 1: barrier"},
      {"List", list({3, 5}), list({5, 3}), "whose sizes are not those of rank"},
      {"ListOfOthers", list({3, 5}), list({3, 6}),
       "got ranks 0, 2: all_gather_coalesced of 32 x Byte; rank 1: all_gather_coalesced of 36 x Byte"},
      {"Splits", splits(2), splits(3), "got rank 0 sending 8 bytes to rank 1, which expects 12"},
  };
}

class MismatchedCalls : public ::testing::TestWithParam<Mismatch> {};
INSTANTIATE_TEST_SUITE_P(ShmFailure, MismatchedCalls, ::testing::ValuesIn(mismatches()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(MismatchedCalls, AreToldToEveryRank) {
  const auto texts = run_threads(3, [](c10d::Backend& backend, int rank) -> std::string {
    sum(backend, 7);
    return error_of([&] { (rank == 1 ? GetParam().odd : GetParam().usual)(backend); });
  });
  EXPECT_THAT(texts, Each(HasSubstr(GetParam().said)));
}

// What no rank could serve is refused before the others hear of it, and the group goes on.
struct Refusal {
  const char* name;
  std::function<void(c10d::Backend&)> call;
  const char* said;
};
std::vector<Refusal> refusals() {
  const auto reduce = [](at::Tensor tensor, c10d::ReduceOp::RedOpType reduction) {
    return [=](c10d::Backend& backend) {
      std::vector<at::Tensor> tensors{tensor};
      backend.allreduce(tensors, {.reduceOp = reduction});
    };
  };
  using c10d::ReduceOp;
  return {
      {"MeanOfIntegers", reduce(at::ones({3}, at::kLong), ReduceOp::AVG), "got all_reduce(mean) of Long"},
      {"OrderOfComplex", reduce(at::ones({3}, at::kComplexFloat), ReduceOp::MIN),
       "got all_reduce(min) of ComplexFloat"},
      {"BitsOfFloats", reduce(at::ones({3}), ReduceOp::BXOR), "got all_reduce(bitwise xor) of Float"},
      {"SumOfFloat8", reduce(at::ones({3}).to(at::kFloat8_e5m2), ReduceOp::SUM), "got all_reduce(sum) of Float8_e5m2"},
      {"Sparse", reduce(at::eye(3).to_sparse(), ReduceOp::SUM), "expected a dense tensor on the CPU"},
      {"Undefined", reduce(at::Tensor(), ReduceOp::SUM), "got an undefined tensor"},
      {"Expanded", reduce(at::ones({1}).expand({4}), ReduceOp::SUM), "expected memory of its own for every element"},
      {"TwoTensors",
       [](c10d::Backend& backend) {
         std::vector<at::Tensor> tensors{at::ones({3}), at::ones({3})};
         backend.allreduce(tensors);
       },
       "[all_reduce] The number of tensors is wrong: got 2, expected 1"},
      {"Root",
       [](c10d::Backend& backend) {
         auto tensors = ones(3);
         backend.broadcast(tensors, {.rootRank = 2});
       },
       "[broadcast] There is no such rank: got root 2, expected 0 to 1"},
      {"GatheredShapes",
       [](c10d::Backend& backend) {
         auto tensors = ones(3);
         std::vector<std::vector<at::Tensor>> outputs{{at::ones({3}), at::ones({4})}};
         backend.allgather(outputs, tensors);
       },
       "[all_gather] The list has not one tensor for each rank: got 4 x Float, expected 2 tensors of 3 x Float"},
      {"WholeAndParts",
       [](c10d::Backend& backend) {
         at::Tensor output = at::ones({5}), input = at::ones({3});
         backend._allgather_base(output, input);
       },
       "got 5 x Float, expected 2 times 3 x Float"},
      {"Splits",
       [](c10d::Backend& backend) {
         at::Tensor output = at::ones({3}), input = at::ones({3});
         std::vector<int64_t> none;
         backend.alltoall_base(output, input, none, none);
       },
       "got 0 splits of 3 rows"},
  };
}

class RefusedArguments : public ::testing::TestWithParam<Refusal> {};
INSTANTIATE_TEST_SUITE_P(ShmFailure, RefusedArguments, ::testing::ValuesIn(refusals()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(RefusedArguments, AreUsageErrorsAndTheGroupGoesOn) {
  const auto texts = run_threads(2, [](c10d::Backend& backend, int) -> std::string {
    std::string text = "no error";
    try {
      GetParam().call(backend);
    } catch (const UsageError& error) {
      text = error.what();
    }
    return text + sum(backend, 3);
  });
  EXPECT_THAT(texts, Each(HasSubstr(GetParam().said)));
}

}  // namespace
}  // namespace accelerate::ranks_test
