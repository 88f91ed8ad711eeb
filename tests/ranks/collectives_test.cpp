// Collectives over values of several tensors: every dtype, shape and structure, over every transport of CPU ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;
using Tensors = std::vector<at::Tensor>;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kDouble, at::kHalf,         at::kBFloat16,
                                      at::kChar,  at::kByte,   at::kShort,        at::kInt,
                                      at::kLong,  at::kBool,   at::kComplexFloat, at::kComplexDouble};

/// Small whole numbers that depend on the rank, so that every dtype holds sums of them exactly.
at::Tensor numbers(at::IntArrayRef shape, at::ScalarType dtype, int64_t rank) {
  const int64_t count = c10::multiply_integers(shape);
  return ((torch::arange(count) + 3 * rank) % 7).view(shape).to(dtype);
}

/// What `gather` has to give, without any exchange.
at::Tensor joined(at::IntArrayRef shape, at::ScalarType dtype, int64_t ranks) {
  Tensors parts;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const at::Tensor part = numbers(shape, dtype, rank);
    parts.push_back(part.dim() == 0 ? part.view({1}) : part);
  }
  return torch::cat(parts);
}

class Collectives : public testing::TestWithParam<std::tuple<std::string, int64_t>> {
 protected:
  void SetUp() override { torch::set_num_threads(1); }
  void on_ranks(const std::function<void(const Accelerator&, int64_t rank)>& body) {
    const auto& [backend, size] = GetParam();
    run_ranks(size,
              [&](const Rank& rank) {
                const Accelerator accelerator(rank.options());
                body(accelerator, rank.rank());
              },
              {.backend = backend});
  }
  int64_t ranks() const { return std::get<1>(GetParam()); }
};

// 40,000 elements make some dtypes travel apart from the rest.
const std::vector<std::vector<int64_t>> kShapes = {{}, {1}, {0}, {0, 3}, {7}, {2, 3}, {3, 1, 5}, {40'000}, {2, 20'001}};

TEST_P(Collectives, GatherTakesTheValuesOfConjugates) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const auto own = [](int64_t of) { return torch::complex(torch::ones({2}), torch::full({2}, 1.0 + double(of))); };
    Tensors expected;
    for (int64_t of = 0; of < ranks(); ++of) expected.push_back(own(of).conj().resolve_conj());
    const auto all = accelerator.gather(Tensors{own(rank).conj(), torch::imag(own(rank).conj())});
    EXPECT_TRUE(torch::equal(all.at(0), torch::cat(expected))) << all.at(0);
    EXPECT_TRUE(torch::equal(all.at(1), torch::imag(torch::cat(expected)))) << all.at(1);
  });
}

TEST_P(Collectives, GatherJoinsTensorsOfEveryDtypeAndShapeInOneValue) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    Tensors own;
    for (const at::ScalarType dtype : kDtypes) {
      for (const auto& shape : kShapes) own.push_back(numbers(shape, dtype, rank));
    }
    const Tensors all = accelerator.gather(own);
    size_t i = 0;
    for (const at::ScalarType dtype : kDtypes) {
      for (const auto& shape : kShapes) {
        EXPECT_TRUE(torch::equal(all.at(i++), joined(shape, dtype, ranks()))) << dtype << " " << shape;
      }
    }
    for (const at::Tensor& tensor : {own.at(0), own.at(5), own.at(7), own.at(2)}) {
      EXPECT_TRUE(torch::equal(accelerator.gather(tensor), joined(tensor.sizes(), tensor.scalar_type(), ranks())));
    }
  });
}

TEST_P(Collectives, ReduceCombinesEveryDtypeThatHasAnOrderOrASum) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    for (const char* reduction : {"sum", "max"}) {
      Tensors own, expected;
      for (const at::ScalarType dtype : kDtypes) {
        if (at::isComplexType(dtype) && std::string(reduction) == "max") continue;
        for (const auto& shape : kShapes) {
          own.push_back(numbers(shape, dtype, rank));
          Tensors parts;
          for (int64_t other = 0; other < ranks(); ++other) parts.push_back(numbers(shape, dtype, other));
          const at::Tensor stacked = torch::stack(parts);
          expected.push_back(std::string(reduction) == "sum" ? stacked.sum(0).to(dtype) : stacked.amax(0));
        }
      }
      const Tensors all = accelerator.reduce(own, {.reduction = reduction});
      for (size_t i = 0; i < own.size(); ++i) {
        EXPECT_TRUE(torch::equal(all.at(i), expected.at(i))) << reduction << " " << own.at(i).options();
        EXPECT_FALSE(all.at(i).is_same(own.at(i))) << "the input is not changed";
      }
    }
  });
}

TEST_P(Collectives, MeanAndScaleAreOfTheSum) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const auto own = static_cast<double>(rank);
    const double mean = static_cast<double>(ranks() - 1) / 2;
    const auto [a, b] =
        accelerator.reduce(std::tuple(torch::tensor(own), torch::full({3}, own, at::kDouble)), {.reduction = "mean"});
    EXPECT_EQ(a.item<double>(), mean);
    EXPECT_TRUE(torch::equal(b, torch::full({3}, mean, at::kDouble)));
    EXPECT_EQ(accelerator.reduce(torch::tensor(own), {.scale = 0.5}).item<double>(), mean * ranks() / 2);
    EXPECT_THAT([&] { accelerator.reduce(torch::arange(3), {.reduction = "mean"}); },
                ThrowsError<UsageError>({.place = "reduce", .got = "Long", .expected = "floating", .remedy = "sum"}));
    EXPECT_THAT([&] { accelerator.reduce(torch::arange(3), {.scale = 2}); },
                ThrowsError<UsageError>({.place = "reduce", .got = "Long", .expected = "floating", .remedy = "scale"}));
  });
}

struct Batch {
  at::Tensor ids;
  std::map<std::string, std::vector<at::Tensor>> parts;
  std::optional<at::Tensor> weights;
  int64_t count = 0;
};

TEST_P(Collectives, StructuresKeepTheirFormAndWhatIsNoTensor) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const Batch own{.ids = torch::arange(2) + 10 * rank,
                    .parts = {{"a", {torch::ones({1}) * rank, at::Tensor()}}, {"b", {}}},
                    .weights = {},
                    .count = rank};
    const auto [batch, text] = accelerator.gather(std::tuple(own, std::string("same")));
    EXPECT_EQ(batch.ids.size(0), 2 * ranks());
    EXPECT_EQ(batch.ids[-1].item<int64_t>(), 1 + 10 * (ranks() - 1));
    EXPECT_EQ(batch.parts.at("a").at(0).numel(), ranks());
    EXPECT_FALSE(batch.parts.at("a").at(1).defined());
    EXPECT_FALSE(batch.weights.has_value());
    EXPECT_EQ(batch.count, rank);
    EXPECT_EQ(text, "same");
    EXPECT_TRUE(accelerator.gather(Tensors()).empty());
  });
}

TEST_P(Collectives, TensorsWithStridesTravelAsTheirElements) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const at::Tensor wide = numbers({4, 6}, at::kFloat, rank);
    const auto [transposed, every_second] = accelerator.gather(std::tuple(wide.t(), wide.slice(1, 0, 6, 2)));
    EXPECT_EQ(transposed.sizes(), (std::vector<int64_t>{6 * ranks(), 4}));
    EXPECT_TRUE(torch::equal(transposed.narrow(0, 6 * rank, 6), wide.t()));
    EXPECT_TRUE(torch::equal(every_second.narrow(0, 4 * rank, 4), wide.slice(1, 0, 6, 2)));
    at::Tensor target = numbers({4, 6}, at::kFloat, rank).t();
    const at::Tensor other = numbers({4, 6}, at::kFloat, ranks() - 1).t();
    const at::Tensor same = accelerator.broadcast(target, ranks() - 1);
    EXPECT_TRUE(same.is_same(target));
    EXPECT_TRUE(torch::equal(target, other));
    EXPECT_TRUE(torch::equal(accelerator.reduce(numbers({4, 6}, at::kFloat, 0).t()),
                             numbers({4, 6}, at::kFloat, 0).t() * ranks()));
  });
}

TEST_P(Collectives, BroadcastGivesEveryDtypeInPlace) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    for (int64_t from = 0; from < ranks(); ++from) {
      Tensors own;
      for (const at::ScalarType dtype : kDtypes) {
        for (const auto& shape : kShapes) own.push_back(numbers(shape, dtype, rank));
      }
      accelerator.broadcast(own, from);
      size_t i = 0;
      for (const at::ScalarType dtype : kDtypes) {
        for (const auto& shape : kShapes) EXPECT_TRUE(torch::equal(own.at(i++), numbers(shape, dtype, from))) << dtype;
      }
      at::Tensor alone = numbers({5}, at::kShort, rank);
      accelerator.broadcast(alone, from);
      EXPECT_TRUE(torch::equal(alone, numbers({5}, at::kShort, from)));
    }
    EXPECT_THAT([&] { accelerator.broadcast(torch::ones({1}), ranks()); },
                ThrowsError<UsageError>(
                    {.place = "broadcast", .got = std::to_string(ranks()), .expected = "0 to", .remedy = "process"}));
  });
}

TEST_P(Collectives, ReduceKeepsTheGraphAndDoesNotTouchTheInput) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const at::Tensor x = torch::full({3}, static_cast<double>(rank + 1), torch::requires_grad());
    const at::Tensor sum = accelerator.reduce(x * 2);
    EXPECT_TRUE(sum.requires_grad()) << "a clone, as in the original";
    EXPECT_EQ(sum[0].item<double>(), static_cast<double>(ranks() * (ranks() + 1)));
    EXPECT_EQ(x[0].item<double>(), static_cast<double>(rank + 1));
    EXPECT_FALSE(accelerator.gather(x).requires_grad());
  });
}

TEST_P(Collectives, PaddingBringsRanksToTheLongest) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const at::Tensor rows = numbers({rank + 1, 2}, at::kInt, rank);
    const at::Tensor columns = numbers({2, ranks() - rank}, at::kHalf, rank);
    const auto [a, b, scalar] =
        accelerator.pad_across_processes(std::tuple(rows, columns.t(), torch::tensor(1.5)), {.pad_index = -1});
    EXPECT_EQ(a.sizes(), (std::vector<int64_t>{ranks(), 2}));
    EXPECT_EQ(a.scalar_type(), at::kInt);
    EXPECT_TRUE(torch::equal(a.narrow(0, 0, rank + 1), rows));
    EXPECT_TRUE(a.narrow(0, rank + 1, ranks() - rank - 1).eq(-1).all().item<bool>());
    EXPECT_EQ(a.is_same(rows), rank + 1 == ranks()) << "the longest stays what it is";
    EXPECT_EQ(b.sizes(), (std::vector<int64_t>{ranks(), 2}));
    EXPECT_TRUE(torch::equal(b.narrow(0, 0, ranks() - rank), columns.t()));
    EXPECT_EQ(scalar.dim(), 0);
    const auto first = accelerator.pad_across_processes(rows, {.pad_first = true});
    EXPECT_TRUE(torch::equal(first.narrow(0, ranks() - rank - 1, rank + 1), rows));
    EXPECT_THAT([&] { accelerator.pad_across_processes(rows, {.pad_index = 0.5}); },
                ThrowsError<UsageError>(
                    {.place = "pad_across_processes", .got = "0.5", .expected = "whole", .remedy = "pad_index"}));
  });
}

TEST_P(Collectives, TextsOfAnyLengthTravel) {
  on_ranks([&](const Accelerator& accelerator, int64_t rank) {
    const std::string binary("\0\xff\n", 3);
    std::vector<std::string> own(static_cast<size_t>(rank), binary);
    own.emplace_back(static_cast<size_t>(1000 * rank), 'x');
    const std::vector<std::string> all = accelerator.gather_object(own);
    std::vector<std::string> expected;
    for (int64_t other = 0; other < ranks(); ++other) {
      expected.insert(expected.end(), static_cast<size_t>(other), binary);
      expected.emplace_back(static_cast<size_t>(1000 * other), 'x');
    }
    EXPECT_EQ(all, expected);
    EXPECT_EQ(accelerator.gather_object({}), std::vector<std::string>());
    EXPECT_EQ(accelerator.broadcast_object_list(own, ranks() - 1).size(), static_cast<size_t>(ranks()));
    EXPECT_EQ(accelerator.broadcast_object_list(own).size(), 1U) << "rank 0's list, whatever the own one is";
    EXPECT_TRUE(accelerator.broadcast_object_list({}).empty());
    EXPECT_THROW(accelerator.broadcast_object_list(own, -1), UsageError);
  });
}

INSTANTIATE_TEST_SUITE_P(Transports, Collectives,
                         testing::Combine(testing::Values("gloo", "shm"), testing::Values(2, 3, 5)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + std::to_string(std::get<1>(info.param));
                         });

// As many bytes in another shape: no transport can see it.
TEST(CollectivesMismatch, ShapesOfAsManyBytesAreNamedByRank) {
  run_ranks(3, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const at::Tensor own = rank.rank() == 1 ? torch::zeros({3, 2}) : torch::zeros({2, 3});
    EXPECT_THAT([&] { accelerator.gather(own); },
                ThrowsError<CommError>({.place = "gather",
                                        .got = "process 0: [2, 3] Float; process 1: [3, 2] Float; process 2: [2, 3]",
                                        .expected = "the same shapes",
                                        .remedy = "pad_across_processes"}));
    EXPECT_EQ(accelerator.gather(torch::ones({1})).numel(), 3) << "the group goes on";
  });
}

TEST(CollectivesMismatch, PaddingOfTensorsWithOtherDimensionsIsNamedByRank) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const at::Tensor own = rank.rank() == 0 ? torch::zeros({1, 5}) : torch::zeros({1, 1, 6});
    EXPECT_THAT([&] { accelerator.pad_across_processes(own); },
                ThrowsError<CommError>({.place = "pad_across_processes",
                                        .got = "process 0: [1, 5] Float; process 1: [1, 1, 6] Float",
                                        .expected = "the same shapes",
                                        .remedy = ""}));
  });
}

class DebugMode : public testing::Test {
 protected:
  void SetUp() override { ::setenv("ACCELERATE_DEBUG_MODE", "1", 1); }
  void TearDown() override { ::unsetenv("ACCELERATE_DEBUG_MODE"); }
};

TEST_F(DebugMode, EveryCollectiveNamesRanksAndShapesThatDisagree) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    EXPECT_EQ(accelerator.plan().at("debug").value, "true");
    const auto own = rank.rank() == 0 ? std::vector{torch::zeros({1, 5})}
                                      : std::vector{torch::zeros({1, 2, 5}), torch::ones({1}, at::kByte)};
    const std::string shapes = "process 0: [1, 5] Float; process 1: [1, 2, 5] Float, [1] Byte";
    const auto expect = [&](const char* operation, const std::function<void()>& call) {
      EXPECT_THAT(call, ThrowsError<CommError>(
                            {.place = operation, .got = shapes, .expected = "the same shapes", .remedy = "pad"}));
    };
    expect("gather", [&] { accelerator.gather(own); });
    expect("gather", [&] { accelerator.gather_for_metrics(own); });
    expect("reduce", [&] { accelerator.reduce(own); });
    expect("broadcast", [&] { accelerator.broadcast(own); });
    EXPECT_EQ(accelerator.gather(torch::ones({2})).numel(), 4) << "and lets through what agrees";
  });
}

}  // namespace
