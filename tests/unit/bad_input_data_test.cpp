// What a loader refuses, as the user reads it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "accelerate/accelerate.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;

struct Sized {
  int64_t n;
  int64_t size() const { return n; }
  at::Tensor get(int64_t index) const { return at::full({}, index, at::kLong); }
};

TEST(BadData, AnEmptyDataSet) {
  EXPECT_THAT([] { DataLoader loader(Sized{0}, {.batch_size = 4}); },
              ThrowsError<DataError>({.place = "DataLoader",
                                      .what = "The data set is empty",
                                      .got = "size() = 0",
                                      .expected = "1 or more",
                                      .remedy = "Check where the data set reads from"}));
}

TEST(BadData, ADataSetOfNegativeSize) {
  EXPECT_THAT(
      [] { DataLoader loader(Sized{-3}, {}); },
      ThrowsError<DataError>(
          {.place = "DataLoader", .what = "empty", .got = "size() = -3", .expected = "1 or more", .remedy = "Check"}));
}

TEST(BadData, TensorsWithoutRows) {
  const at::Tensor none = at::zeros({0, 3});
  EXPECT_THAT(
      [&] { DataLoader loader(TensorDataset{none}, {}); },
      ThrowsError<DataError>(
          {.place = "DataLoader", .what = "empty", .got = "size() = 0", .expected = "1 or more", .remedy = "Check"}));
}

TEST(BadData, ADataSetSmallerThanABatchThatIsDropped) {
  EXPECT_THAT([] { DataLoader loader(Sized{3}, {.batch_size = 4, .drop_last = true}); },
              ThrowsError<DataError>({.place = "DataLoader",
                                      .what = "gives no batch",
                                      .got = "3 examples with .batch_size = 4 and .drop_last = true",
                                      .expected = "at least one full batch",
                                      .remedy = "Lower the batch size or keep the last batch"}));
}

TEST(BadData, ADataSetSmallerThanABatchThatIsKeptIsOneShortBatch) {
  const DataLoader loader(Sized{3}, {.batch_size = 4});
  EXPECT_EQ(loader.size(), 1);
  for (auto& batch : loader) EXPECT_EQ(batch.size(0), 3);
}

TEST(BadData, ABatchSizeThatIsNotPositive) {
  for (const int64_t size : {int64_t{0}, int64_t{-1}, std::numeric_limits<int64_t>::min()}) {
    EXPECT_THAT([&] { DataLoader loader(Sized{3}, {.batch_size = size}); },
                ThrowsError<ConfigError>({.place = "DataLoader",
                                          .what = "The batch size is not positive",
                                          .got = ".batch_size = " + std::to_string(size),
                                          .expected = "1 or more",
                                          .remedy = "DataLoaderOptions::batch_size"}));
  }
}

TEST(BadData, AHugeBatchSizeIsOneBatch) {
  const DataLoader loader(Sized{3}, {.batch_size = std::numeric_limits<int64_t>::max()});
  EXPECT_EQ(loader.size(), 1);
  for (auto& batch : loader) EXPECT_EQ(batch.size(0), 3);
}

TEST(BadData, ACollateOfOnesOwnIsCheckedLikeTheDefault) {
  const auto join = [](std::vector<at::Tensor> examples) { return at::stack(examples); };
  EXPECT_THROW(DataLoader(Sized{0}, {.batch_size = 4}, join), DataError);
  EXPECT_THROW(DataLoader(Sized{3}, {.batch_size = 0}, join), ConfigError);
}

TEST(BadData, MixedLeadingSizesInABatchNameTheTensors) {
  const at::Tensor images = at::zeros({5, 2}), labels = at::zeros({4});
  EXPECT_THAT([&] { DataLoader loader(TensorDataset(images, labels), {.batch_size = 2}); },
              ThrowsError<DataError>({.place = "TensorDataset",
                                      .what = "do not have the same number of rows",
                                      .got = "tensor 1 with 4 rows",
                                      .expected = "5 rows as in tensor 0",
                                      .remedy = "one row of every tensor"}));
}

TEST(BadData, ExamplesThatCannotBeStackedNameTheExample) {
  struct Ragged {
    int64_t size() const { return 4; }
    at::Tensor get(int64_t index) const { return at::zeros({index == 3 ? 2 : 1}); }
  };
  const DataLoader loader(Ragged{}, {.batch_size = 2});
  auto pass = loader.begin();
  EXPECT_THAT([&] { ++pass; }, ThrowsError<DataError>({.place = "DataLoader",
                                                       .what = "cannot be stacked",
                                                       .got = "Float [2] as tensor 0 of example 1",
                                                       .expected = "Float [1] as in example 0",
                                                       .remedy = "pass a collate function"}));
}

RC_GTEST_PROP(BadData, ALoaderIsBuiltExactlyWhenItHasABatch, (int8_t samples, int8_t batch_size, bool drop_last)) {
  const bool possible = batch_size > 0 && samples > 0 && !(drop_last && samples < batch_size);
  try {
    const DataLoader loader(Sized{samples}, {.batch_size = batch_size, .drop_last = drop_last});
    RC_ASSERT(possible);
    RC_ASSERT(loader.size() >= 1);
  } catch (const ConfigError&) {
    RC_ASSERT(batch_size < 1);
  } catch (const DataError&) {
    RC_ASSERT(!possible && batch_size >= 1);
  }
}

}  // namespace
}  // namespace accelerate
