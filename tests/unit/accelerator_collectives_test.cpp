// gather, gather_for_metrics and reduce in one process. Source of the expected values: the original without launcher.
#include <map>
#include <optional>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::expect_error;

struct Metrics {
  at::Tensor predictions;
  at::Tensor references;
  std::optional<at::Tensor> weights;
  int64_t count = 0;
};

auto make_loader(int64_t rows, accelerate::DataLoaderOptions options) {
  return accelerate::DataLoader(accelerate::TensorDataset(torch::arange(rows)), options);
}

TEST(Gather, ReturnsTheArgumentItself) {
  const Accelerator accelerator;
  const auto x = torch::arange(6).reshape({2, 3});
  EXPECT_TRUE(accelerator.gather(x).is_same(x));
  const auto scalar = torch::tensor(3.0);
  EXPECT_EQ(accelerator.gather(scalar).dim(), 0) << "0-d stays 0-d";
  const auto transposed = x.t();
  EXPECT_FALSE(accelerator.gather(transposed).is_contiguous());
  EXPECT_FALSE(accelerator.gather(at::Tensor()).defined());
}

TEST(Gather, KeepsStructureAndWhatIsNoTensor) {
  const Accelerator accelerator;
  const auto x = torch::arange(3), y = torch::arange(4);
  const auto [a, list, number] = accelerator.gather(std::tuple(x, std::vector<at::Tensor>{y, x}, 7));
  EXPECT_TRUE(a.is_same(x));
  EXPECT_TRUE(list.at(0).is_same(y));
  EXPECT_EQ(number, 7);
  const auto named = accelerator.gather(std::map<std::string, at::Tensor>{{"x", x}});
  EXPECT_TRUE(named.at("x").is_same(x));
  const Metrics metrics = accelerator.gather(Metrics{.predictions = x, .references = y, .weights = {}, .count = 3});
  EXPECT_TRUE(metrics.predictions.is_same(x));
  EXPECT_TRUE(metrics.references.is_same(y));
  EXPECT_FALSE(metrics.weights.has_value());
  EXPECT_EQ(metrics.count, 3);
}

TEST(GatherForMetrics, EverySampleOnceOverAPass) {
  for (const int64_t rows : {99, 96, 16, 1}) {
    Accelerator accelerator;
    auto loader = accelerator.prepare(make_loader(rows, {.batch_size = 16}));
    std::vector<at::Tensor> all;
    for (auto& [x] : loader) all.push_back(accelerator.gather_for_metrics(x));
    EXPECT_TRUE(torch::equal(torch::cat(all), torch::arange(rows))) << rows;
  }
}

TEST(GatherForMetrics, CutsToTheRemainderOnTheLastBatchOnly) {
  Accelerator accelerator;
  auto loader = accelerator.prepare(make_loader(10, {.batch_size = 4}));
  std::vector<int64_t> sizes;
  for ([[maybe_unused]] auto& batch : loader) sizes.push_back(accelerator.gather_for_metrics(torch::arange(9)).size(0));
  EXPECT_EQ(sizes, (std::vector<int64_t>{9, 9, 2})) << "longer than the remainder is cut, whatever it holds";
  EXPECT_EQ(accelerator.gather_for_metrics(torch::arange(9)).size(0), 9) << "outside a loop nothing is cut";
}

TEST(GatherForMetrics, LeavesScalarsAndShorterTensorsAndCutsEveryLeaf) {
  Accelerator accelerator;
  auto loader = accelerator.prepare(make_loader(3, {.batch_size = 4}));
  for ([[maybe_unused]] auto& batch : loader) {
    EXPECT_EQ(accelerator.gather_for_metrics(torch::tensor(1.5)).dim(), 0);
    EXPECT_EQ(accelerator.gather_for_metrics(torch::arange(2)).size(0), 2);
    EXPECT_FALSE(accelerator.gather_for_metrics(at::Tensor()).defined());
    const Metrics metrics = accelerator.gather_for_metrics(
        Metrics{.predictions = torch::zeros({4, 2}), .references = torch::arange(4), .weights = torch::ones({5})});
    EXPECT_EQ(metrics.predictions.sizes(), (std::vector<int64_t>{3, 2}));
    EXPECT_TRUE(torch::equal(metrics.references, torch::arange(3)));
    EXPECT_EQ(metrics.weights->size(0), 3);
  }
}

TEST(GatherForMetrics, WithDropLastNothingIsCutAndALineSaysSo) {
  std::vector<std::string> lines;
  Accelerator accelerator({.log_sink = [&](accelerate::LogLevel, std::string_view line) { lines.emplace_back(line); }});
  auto loader = accelerator.prepare(make_loader(11, {.batch_size = 5, .drop_last = true}));
  std::vector<int64_t> sizes;
  for ([[maybe_unused]] auto& batch : loader) sizes.push_back(accelerator.gather_for_metrics(torch::arange(9)).size(0));
  EXPECT_EQ(sizes, (std::vector<int64_t>{9, 9}));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], testing::HasSubstr("gather_for_metrics"));
}

TEST(GatherForMetrics, TheInnermostLoaderCounts) {
  Accelerator accelerator;
  auto [outer, inner] = accelerator.prepare(make_loader(5, {.batch_size = 4}), make_loader(7, {.batch_size = 4}));
  std::vector<int64_t> sizes;
  for ([[maybe_unused]] auto& batch : outer) {
    for ([[maybe_unused]] auto& other : inner)
      sizes.push_back(accelerator.gather_for_metrics(torch::arange(4)).size(0));
    sizes.push_back(accelerator.gather_for_metrics(torch::arange(4)).size(0));
  }
  EXPECT_EQ(sizes, (std::vector<int64_t>{4, 3, 4, 4, 3, 1}));
}

TEST(Reduce, ReturnsACloneWithTheSameValues) {
  const Accelerator accelerator;
  const auto x = torch::tensor({1.0, 2.0});
  for (const char* reduction : {"sum", "mean", "max"}) {
    auto reduced = accelerator.reduce(x, {.reduction = reduction});
    EXPECT_TRUE(torch::equal(reduced, x)) << reduction;
    reduced.zero_();
    EXPECT_EQ(x[1].item<double>(), 2.0) << "the input is not changed";
  }
  EXPECT_TRUE(torch::equal(accelerator.reduce(x), x)) << "sum by default";
  EXPECT_EQ(accelerator.reduce(torch::tensor(5)).dim(), 0);
}

TEST(Reduce, KeepsStructureDtypeAndGraph) {
  const Accelerator accelerator;
  const auto x = torch::ones({2}, torch::requires_grad());
  const auto [a, named] = accelerator.reduce(std::tuple(x * 2, std::map<int, at::Tensor>{{1, torch::arange(3)}}));
  EXPECT_TRUE(a.requires_grad()) << "a clone, as in the original";
  EXPECT_EQ(named.at(1).scalar_type(), torch::kLong);
  EXPECT_FALSE(accelerator.reduce(at::Tensor()).defined());
}

TEST(Reduce, AnUnknownReductionIsRefused) {
  const Accelerator accelerator;
  expect_error<UsageError>(
      [&] { accelerator.reduce(torch::ones({2}), {.reduction = "average"}); },
      {"reduce", "\"average\"", "\"sum\", \"mean\", \"max\" or \"none\"", "{.reduction = \"sum\"}"});
  EXPECT_THROW(accelerator.reduce(at::Tensor(), {.reduction = "Sum"}), UsageError) << "also where nothing is reduced";
}

TEST(WaitForEveryone, ReturnsInOneProcess) {
  const Accelerator accelerator;
  accelerator.wait_for_everyone();
  EXPECT_EQ(accelerator.num_processes(), 1);
}

}  // namespace
