// Collectives over nested values and the batches of prepared loaders, rank by rank as the original recorded them.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/parity/fixtures.h"
#include "tests/parity/holding.h"

namespace parity {
namespace {

using accelerate::Accelerator;
using accelerate::testing::Rank;

/// The values of original/collectives.py.
struct Nested {
  at::Tensor matrix;
  std::tuple<at::Tensor, std::vector<at::Tensor>> pair;
  at::Tensor transposed, flags, half, bytes, empty;
};

Nested nested(int64_t rank) {
  const at::Tensor base = torch::arange(6, torch::kFloat64).reshape({2, 3}) + 10 * rank;
  return {.matrix = base,
          .pair = {base.to(torch::kFloat32) / 4, {torch::arange(3) - rank, torch::tensor(rank)}},
          .transposed = base.t(),
          .flags = torch::tensor({rank % 2 == 0, true, false}),
          .half = base.to(torch::kBFloat16),
          .bytes = torch::tensor({static_cast<uint8_t>(rank), uint8_t{255}}, torch::kByte),
          .empty = torch::zeros({0, 4})};
}

using Named = std::map<std::string, at::Tensor>;

Named numbers(int64_t rank) {
  return {{"double", torch::tensor({0.5, -1.5, 3.0}, torch::kFloat64) * (rank + 1)},
          {"float", torch::tensor({{1.0, 2.0}}, torch::kFloat32) + rank},
          {"scalar", torch::tensor(2.0F * static_cast<float>(rank))}};
}

Named with_long(int64_t rank) {
  Named named = numbers(rank);
  named["long"] = torch::arange(4) + rank;
  return named;
}

at::Tensor ragged(int64_t rank) { return torch::arange((rank + 2) * 2).reshape({rank + 2, 2}) + 100 * rank; }

Json listed(const at::Tensor& tensor) {
  static const std::map<at::ScalarType, std::string> names = {{at::kDouble, "float64"},    {at::kFloat, "float32"},
                                                              {at::kBFloat16, "bfloat16"}, {at::kLong, "int64"},
                                                              {at::kByte, "uint8"},        {at::kBool, "bool"}};
  return {{"shape", tensor.sizes().vec()}, {"dtype", names.at(tensor.scalar_type())}, {"values", elements(tensor)}};
}

Json listed(const Named& named) {
  Json object = Json::object();
  for (const auto& [name, tensor] : named) object[name] = listed(tensor);
  return object;
}

Json listed(const Nested& value) {
  const auto& [first, rest] = value.pair;
  return {{"matrix", listed(value.matrix)},
          {"pair", {listed(first), {listed(rest.at(0)), listed(rest.at(1))}}},
          {"transposed", listed(value.transposed)},
          {"flags", listed(value.flags)},
          {"half", listed(value.half)},
          {"bytes", listed(value.bytes)},
          {"empty", listed(value.empty)}};
}

/// Ranks are threads, and GoogleTest counts failures of all of them.
class Several : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { torch::set_num_threads(1); }
  Json fixture(const std::string& name) const {
    return read_fixture(name + "-" + std::to_string(GetParam()) + ".json");
  }
};

TEST_P(Several, CollectivesGiveEveryRankWhatTheOriginalGives) {
  const Json ranks = fixture("collectives").at("ranks");
  accelerate::testing::run_ranks(GetParam(), [&](const Rank& rank) {
    const Json& expected = ranks.at(static_cast<size_t>(rank.rank()));
    const Accelerator accelerator(rank.options());
    const int64_t r = rank.rank();
    EXPECT_EQ(listed(accelerator.gather(nested(r))), expected.at("gather"));
    EXPECT_EQ(listed(accelerator.reduce(with_long(r))), expected.at("sum"));
    EXPECT_EQ(listed(accelerator.reduce(numbers(r), {.reduction = "mean"})), expected.at("mean"));
    EXPECT_EQ(listed(accelerator.reduce(with_long(r), {.reduction = "max"})), expected.at("max"));
    // The original takes a scale and ignores it, except on TPUs.
    EXPECT_EQ(expected.at("scaled"), expected.at("mean"));
    Named doubled = accelerator.reduce(numbers(r), {.reduction = "mean", .scale = 0.5});
    for (auto& [name, tensor] : doubled) tensor = tensor * 2;
    EXPECT_EQ(listed(doubled), expected.at("mean"));
    EXPECT_EQ(listed(accelerator.broadcast(nested(r), rank.size() - 1)), expected.at("broadcast"));
    EXPECT_EQ(listed(accelerator.pad_across_processes(ragged(r))), expected.at("padded"));
    EXPECT_EQ(listed(accelerator.pad_across_processes(ragged(r), {.pad_index = -7, .pad_first = true})),
              expected.at("padded_first"));
    EXPECT_EQ(listed(accelerator.pad_across_processes(ragged(r).t().contiguous(), {.dim = -1, .pad_index = 9})),
              expected.at("padded_columns"));
    EXPECT_EQ(listed(accelerator.pad_across_processes(ragged(r), {.dim = 2})), expected.at("padded_nowhere"));
    EXPECT_EQ(accelerator.gather_object({"rank " + std::to_string(r), std::string(static_cast<size_t>(r), 'x')}),
              expected.at("objects").get<std::vector<std::string>>());
  });
}

std::vector<int64_t> values(const at::Tensor& tensor) {
  const at::Tensor own = tensor.contiguous();
  return {own.data_ptr<int64_t>(), own.data_ptr<int64_t>() + own.numel()};
}

std::vector<std::string> texts_of(const at::Tensor& ids) {
  std::vector<std::string> texts;
  for (const int64_t id : values(ids)) texts.push_back(std::to_string(id));
  return texts;
}

TEST_P(Several, LoadersAndMetricsGiveEveryRankWhatTheOriginalGives) {
  const Json ranks = fixture("gather_for_metrics").at("ranks");
  accelerate::testing::run_ranks(GetParam(), [&](const Rank& rank) {
    for (const Json& entry : ranks.at(static_cast<size_t>(rank.rank())).at("cases")) {
      SCOPED_TRACE(entry.dump().substr(0, 100));
      const bool split = entry.contains("dataloader_config");
      Accelerator accelerator(
          rank.options({.dataloader_config = accelerate::DataLoaderConfiguration{.split_batches = split}}));
      const auto loader = accelerator.prepare(
          accelerate::DataLoader(accelerate::TensorDataset(torch::arange(entry["samples"].get<int64_t>())),
                                 {.batch_size = entry["batch_size"], .drop_last = entry["drop_last"]}));
      EXPECT_EQ(loader.size(), entry.at("length").get<int64_t>());
      size_t batch = 0;
      for (auto& [ids] : loader) {
        ASSERT_LT(batch, entry.at("batches").size());
        const Json& expected = entry["batches"][batch++];
        EXPECT_EQ(values(ids), expected.at("own"));
        EXPECT_EQ(values(accelerator.gather_for_metrics(ids)), expected.at("ids"));
        EXPECT_EQ(values(accelerator.gather_for_metrics(torch::tensor(rank.rank()))), expected.at("one_a_rank"));
        EXPECT_EQ(accelerator.gather_for_metrics(texts_of(ids)), expected.at("texts"));
      }
      EXPECT_EQ(batch, entry.at("batches").size());
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Original, Several, testing::Values(2, 4),
                         [](const auto& info) { return std::to_string(info.param) + "Ranks"; });

}  // namespace
}  // namespace parity
