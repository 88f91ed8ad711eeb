// Objects of any type between ranks, tensors that one rank has, float8, complex, and ragged tensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::UsageError;
using accelerate::support::same_bytes;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;
using ::testing::HasSubstr;

struct Prediction {
  std::string label;
  std::optional<double> score;
  std::vector<int> tokens;
  bool operator==(const Prediction&) const = default;
};

class Objects : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Objects, testing::Values(1, 2, 4));

TEST_P(Objects, ListsOfEveryLengthAreJoinedInTheOrderOfTheRanks) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    EXPECT_EQ(accelerator.gather_object(std::vector{rank.rank()}).size(), static_cast<size_t>(GetParam()));
    std::vector<Prediction> own, expected;
    for (int64_t other = 0; other < GetParam(); ++other) {
      for (int64_t i = 0; i < other; ++i) {
        expected.push_back({.label = std::string(static_cast<size_t>(100 * other), 'x'),
                            .score = i % 2 == 0 ? std::optional(0.5 * static_cast<double>(i)) : std::nullopt,
                            .tokens = {static_cast<int>(i), -1}});
        if (other == rank.rank()) own.push_back(expected.back());
      }
    }
    EXPECT_EQ(accelerator.gather_object(own), expected);
    using Mixed = std::tuple<std::map<std::string, int64_t>, at::Tensor>;
    const auto mixed = accelerator.gather_object(
        std::vector<Mixed>{{{{"rank", rank.rank()}}, torch::full({rank.rank()}, 1.5, at::kBFloat16)}});
    ASSERT_EQ(mixed.size(), static_cast<size_t>(GetParam()));
    EXPECT_EQ(std::get<0>(mixed.back()).at("rank"), GetParam() - 1);
    EXPECT_TRUE(same_bytes(std::get<1>(mixed.back()), torch::full({GetParam() - 1}, 1.5, at::kBFloat16)));
    EXPECT_EQ(accelerator.gather_object(std::vector<bool>{rank.rank() == 0}).size(), static_cast<size_t>(GetParam()));
    EXPECT_TRUE(accelerator.gather_object(std::vector<Prediction>()).empty());
  });
}

TEST_P(Objects, BroadcastGivesTheListOfOneRank) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    for (int64_t from = 0; from < GetParam(); ++from) {
      const std::vector<Prediction> own(static_cast<size_t>(rank.rank() + 1), {.label = std::to_string(rank.rank())});
      const std::vector<Prediction> all = accelerator.broadcast_object_list(own, from);
      EXPECT_EQ(all, std::vector<Prediction>(static_cast<size_t>(from + 1), {.label = std::to_string(from)}));
    }
    EXPECT_THROW(accelerator.broadcast_object_list(std::vector{1}, GetParam()), UsageError);
  });
}

// What only the structure says goes ahead; a rank that has nothing makes room for it.
TEST_P(Objects, AStructureIsEnoughToReceiveABatch) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    using Batch = std::map<std::string, at::Tensor>;
    Batch batch;
    if (rank.rank() == 0) batch = {{"x", torch::arange(6).view({2, 3})}, {"y", torch::ones({2}, at::kHalf)}};
    const auto structure = accelerator.broadcast_object_list(std::vector{accelerate::get_data_structure(batch)});
    if (rank.rank() != 0) batch = accelerate::initialize_tensors(structure.at(0));
    batch = accelerator.broadcast(batch);
    EXPECT_TRUE(torch::equal(batch.at("x"), torch::arange(6).view({2, 3})));
    EXPECT_TRUE(torch::equal(batch.at("y"), torch::ones({2}, at::kHalf)));
  });
}

TEST_P(Objects, ATensorOfOneRankIsCopiedToAll) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const int64_t from = GetParam() - 1;
    for (const at::Tensor& tensor : {torch::tensor({1, 2, 3}, at::kInt), torch::zeros({0, 5}, at::kDouble),
                                     torch::tensor(2.5), torch::arange(6).view({2, 3}).t(),
                                     torch::ones({3}).to(at::kFloat8_e4m3fn), torch::ones({2}, at::kComplexFloat)}) {
      const at::Tensor copy = accelerator.copy_tensor_to_devices(rank.rank() == from ? tensor : at::Tensor());
      EXPECT_TRUE(same_bytes(copy, tensor));
    }
    EXPECT_THAT([&] { accelerator.copy_tensor_to_devices(); },
                ThrowsError<UsageError>({.place = "copy_tensor_to_devices",
                                         .what = "Exactly one process",
                                         .got = "none on any process",
                                         .expected = "one on one process",
                                         .remedy = "at::Tensor()"}));
    if (GetParam() == 1) return;
    EXPECT_THAT([&] { accelerator.copy_tensor_to_devices(rank.rank() < 2 ? torch::ones({1}) : at::Tensor()); },
                ThrowsError<UsageError>({.place = "copy_tensor_to_devices",
                                         .what = "Exactly one process",
                                         .got = "one on process 0 and on process 1",
                                         .expected = "one on one process",
                                         .remedy = "at::Tensor()"}));
  });
}

TEST(ObjectsMismatch, OtherTypesAreNamed) {
  run_ranks(2, [](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto gather = [&] {
      if (rank.rank() == 0) {
        accelerator.gather_object(std::vector<int>{1});
      } else {
        accelerator.gather_object(std::vector<Prediction>(1));
      }
    };
    EXPECT_THAT(gather,
                ThrowsError<CommError>({.place = "gather_object",
                                        .what = "different types",
                                        .got = rank.rank() == 0 ? "Prediction from another" : "int from another",
                                        .expected = rank.rank() == 0 ? "int as on this" : "Prediction as on this",
                                        .remedy = "same type"}));
    EXPECT_EQ(accelerator.gather_object(std::vector<int>{1}).size(), 2U) << "the group goes on";
  });
}

// The samples of the last batch that are repeated are cut off objects as they are off tensors.
TEST_P(Objects, ForMetricsTheLastBatchIsCut) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto loader =
        accelerator.prepare(accelerate::DataLoader(accelerate::TensorDataset(torch::arange(9)), {.batch_size = 4}));
    std::vector<int64_t> numbers;
    size_t tensors = 0;
    for (auto& [x] : loader) {
      std::vector<int64_t> own;
      std::vector<at::Tensor> ragged;
      for (const int64_t number : accelerate::support::integers(x)) {
        own.push_back(number);
        ragged.push_back(torch::zeros({number}));
      }
      const auto all = accelerator.gather_for_metrics(own);
      numbers.insert(numbers.end(), all.begin(), all.end());
      tensors += accelerator.gather_for_metrics(ragged, {.use_gather_object = true}).size();
    }
    std::sort(numbers.begin(), numbers.end());
    EXPECT_EQ(numbers, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8}));
    EXPECT_EQ(tensors, 9U) << "of shapes that gather could not join";
  });
}

constexpr at::ScalarType kFloat8[] = {at::kFloat8_e4m3fn, at::kFloat8_e5m2};

TEST_P(Objects, Float8TravelsByItsBytesAndIsReducedInFloat32) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const auto r = static_cast<float>(rank.rank());
    const auto n = static_cast<float>(GetParam());
    for (const at::ScalarType dtype : kFloat8) {
      const at::Tensor own = torch::tensor({r, 0.5F, -2.0F}).to(dtype);
      std::vector<at::Tensor> parts;
      for (int64_t other = 0; other < GetParam(); ++other) {
        parts.push_back(torch::tensor({static_cast<float>(other), 0.5F, -2.0F}));
      }
      EXPECT_TRUE(same_bytes(accelerator.gather(own), torch::cat(parts).to(dtype)));
      EXPECT_TRUE(same_bytes(accelerator.reduce(own), torch::stack(parts).sum(0).to(dtype)));
      EXPECT_TRUE(same_bytes(accelerator.reduce(own, {.reduction = "mean"}), torch::stack(parts).mean(0).to(dtype)));
      EXPECT_TRUE(
          same_bytes(accelerator.reduce(own, {.reduction = "max"}), torch::tensor({n - 1, 0.5F, -2.0F}).to(dtype)));
      EXPECT_TRUE(same_bytes(accelerator.reduce(own, {.scale = 0.5}), (torch::stack(parts).sum(0) * 0.5).to(dtype)));
      at::Tensor target = own.clone();
      accelerator.broadcast(target, GetParam() - 1);
      EXPECT_TRUE(same_bytes(target, parts.back().to(dtype)));
      const at::Tensor padded =
          accelerator.pad_across_processes(torch::ones({rank.rank() + 1}).to(dtype), {.pad_index = 0.25});
      at::Tensor expected = torch::full({GetParam()}, 0.25);
      expected.narrow(0, 0, rank.rank() + 1).fill_(1);
      EXPECT_TRUE(same_bytes(padded, expected.to(dtype)));
    }
  });
}

TEST_P(Objects, ComplexNumbersArePaddedAndAveragedButHaveNoLargest) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const at::Tensor own =
        torch::complex(torch::full({2}, static_cast<double>(rank.rank()), at::kDouble), torch::ones({2}, at::kDouble));
    const at::Tensor mean = accelerator.reduce(own, {.reduction = "mean"});
    EXPECT_TRUE(
        torch::equal(torch::real(mean), torch::full({2}, static_cast<double>(GetParam() - 1) / 2, at::kDouble)));
    EXPECT_TRUE(torch::equal(torch::imag(mean), torch::ones({2}, at::kDouble)));
    EXPECT_EQ(accelerator.pad_across_processes(own.narrow(0, 0, rank.rank() == 0 ? 1 : 2)).size(0),
              GetParam() == 1 ? 1 : 2);
    EXPECT_THAT(
        [&] { accelerator.reduce(own, {.reduction = "max"}); },
        ThrowsError<UsageError>(
            {.place = "reduce", .what = "no largest", .got = "ComplexDouble", .expected = "real", .remedy = "sum"}));
  });
}

// The original's manual promises it; its code adds up.
TEST_P(Objects, ReductionNoneIsACopyOfTheOwnValues) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    const at::Tensor own = torch::full({2}, rank.rank());
    const at::Tensor same = accelerator.reduce(own, {.reduction = "none"});
    EXPECT_TRUE(torch::equal(same, own));
    EXPECT_FALSE(same.is_same(own));
    EXPECT_THAT([&] { accelerator.reduce(own, {.reduction = "man"}); },
                ThrowsError<UsageError>({.place = "reduce",
                                         .what = "not known",
                                         .got = "\"man\"",
                                         .expected = "\"mean\", \"max\" or \"none\"",
                                         .remedy = ".reduction"}));
  });
}

TEST(Padding, LeavesRaggedTensorsAloneAndSaysSo) {
  std::mutex mutex;
  std::vector<std::string> lines;
  run_ranks(2, [&](const Rank& rank) {
    const Accelerator accelerator(rank.options({.log_sink = [&](accelerate::LogLevel, std::string_view line) {
      const std::lock_guard lock(mutex);
      lines.emplace_back(line);
    }}));
    const at::Tensor ragged = at::_nested_tensor_from_tensor_list({torch::ones({1, 2}), torch::ones({3, 2})});
    const auto [same, padded] = accelerator.pad_across_processes(std::tuple(ragged, torch::ones({rank.rank() + 1})));
    EXPECT_TRUE(same.is_same(ragged));
    EXPECT_EQ(padded.size(0), 2);
  });
  EXPECT_THAT(lines, testing::Contains(HasSubstr("ragged tensors cannot be padded")).Times(2));
}

// Upstream's table: shape (4, 3, 100) in one process.
TEST(Padding, DimensionsOutsideLeaveTheTensor) {
  const Accelerator accelerator;
  const at::Tensor x = torch::rand({4, 3, 100});
  EXPECT_EQ(accelerator.pad_across_processes(x, {.dim = -1}).size(-1), 100);
  EXPECT_TRUE(accelerator.pad_across_processes(x, {.dim = -4}).is_same(x));
  run_ranks(2, [&](const Rank& rank) {
    const Accelerator several(rank.options());
    const at::Tensor own = torch::rand({4, 3, 100 + rank.rank()});
    EXPECT_TRUE(several.pad_across_processes(own, {.dim = -4}).is_same(own));
    EXPECT_EQ(several.pad_across_processes(own, {.dim = -1}).size(-1), 101);
  });
}

TEST_P(Objects, ExamplesOfLibTorchAndOptionalsTravel) {
  run_ranks(GetParam(), [&](const Rank& rank) {
    const Accelerator accelerator(rank.options());
    using Example = torch::data::Example<>;
    const Example own(torch::full({2}, rank.rank()), torch::full({1}, 10 * rank.rank()));
    const auto [all, optional, none] =
        accelerator.gather(std::tuple(own, std::optional(torch::ones({1})), std::optional<at::Tensor>()));
    EXPECT_EQ(all.data.size(0), 2 * GetParam());
    EXPECT_EQ(all.target[-1].item<int64_t>(), 10 * (GetParam() - 1));
    EXPECT_EQ(optional->size(0), GetParam());
    EXPECT_FALSE(none.has_value());
    EXPECT_EQ(accelerator.gather_object(std::vector{own}).size(), static_cast<size_t>(GetParam()));
  });
}

}  // namespace
