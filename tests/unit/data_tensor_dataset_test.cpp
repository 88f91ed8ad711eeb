#include "accelerate/data/datasets/tensor_dataset.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "accelerate/data/dataset.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::same_bytes;
using support::ThrowsError;

static_assert(BatchDataset<TensorDataset<at::Tensor>>);
static_assert(std::same_as<BatchOf<TensorDataset<at::Tensor, at::Tensor>>, std::tuple<at::Tensor, at::Tensor>>);

RC_GTEST_PROP(TensorDataset, RowIIsTheRowOfIndexI, ()) {
  const auto rows = *rc::gen::inRange<int64_t>(1, 20);
  const auto rank = *rc::gen::inRange<size_t>(0, 4);
  const auto rest = *rc::gen::container<std::vector<int64_t>>(rank, rc::gen::inRange<int64_t>(0, 4));
  const auto dtype = *rc::gen::element(at::kFloat, at::kDouble, at::kLong, at::kByte, at::kBool, at::kHalf);
  std::vector<int64_t> shape{rows};
  shape.insert(shape.end(), rest.begin(), rest.end());
  const at::Tensor data = at::randint(100, shape, at::TensorOptions(at::kLong)).to(dtype);
  const at::Tensor labels = at::arange(rows);
  const TensorDataset dataset(data, labels);
  RC_ASSERT(dataset.size() == rows);
  const auto indices = *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, rows));
  const auto [x, y] = dataset.get_batch(indices);
  RC_ASSERT(support::integers(y) == indices);
  RC_ASSERT(x.size(0) == static_cast<int64_t>(indices.size()));
  for (size_t i = 0; i < indices.size(); ++i) {
    RC_ASSERT(static_cast<bool>(same_bytes(x[static_cast<int64_t>(i)], data[indices[i]])));
  }
}

RC_GTEST_PROP(TensorDataset, RowsAreTheSameWhereverTheyAreMade, ()) {
  const at::Tensor data = support::numbered_rows(9, *rc::gen::inRange<int64_t>(1, 20)), labels = at::arange(9);
  const TensorDataset dataset(data, labels);
  static_assert(StagingDataset<TensorDataset<at::Tensor, at::Tensor>>);
  const auto indices = *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, 9));
  const auto expected = dataset.get_batch(indices);
  BatchMemory memory(at::zeros({*rc::gen::inRange<int64_t>(0, 2'000)}, at::kByte));
  const int64_t room = memory.left();
  const auto got = dataset.get_batch(indices, memory);
  const int64_t needed = BatchMemory::bytes_of(std::get<0>(expected)) + BatchMemory::bytes_of(std::get<1>(expected));
  RC_ASSERT(static_cast<bool>(same_bytes(std::get<0>(got), std::get<0>(expected))));
  RC_ASSERT(static_cast<bool>(same_bytes(std::get<1>(got), std::get<1>(expected))));
  if (room > 0 && needed <= room) {
    RC_ASSERT(memory.has(std::get<0>(got)) && memory.has(std::get<1>(got)));
    RC_ASSERT(memory.left() == room - needed);
  }
  BatchMemory none;
  RC_ASSERT(!none.has(std::get<0>(dataset.get_batch(indices, none))));
}

TEST(TensorDataset, IndicesOutOfRangeAreErrorsWhereverRowsAreMade) {
  const TensorDataset dataset(at::arange(4));
  BatchMemory memory(at::zeros({64}, at::kByte));
  const std::vector<int64_t> indices{1, 4};
  EXPECT_THROW(dataset.get_batch(indices, memory), c10::IndexError);
}

TEST(TensorDataset, BatchesAreCopies) {
  const at::Tensor data = at::arange(4);
  const TensorDataset dataset(data);
  const std::vector<int64_t> indices{1, 2};
  std::get<0>(dataset.get_batch(indices)).zero_();
  EXPECT_EQ(support::integers(data), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(TensorDataset, RowsOfATransposedTensorAreItsRows) {
  const at::Tensor data = support::numbered_rows(3, 4).t();
  const TensorDataset dataset(data);
  EXPECT_EQ(dataset.size(), 4);
  const std::vector<int64_t> indices{3, 0};
  EXPECT_TRUE(at::equal(std::get<0>(dataset.get_batch(indices)), at::stack({data[3], data[0]})));
}

TEST(TensorDatasetErrors, LeadingSizesThatDiffer) {
  const at::Tensor images = at::zeros({5, 2}), labels = at::zeros({5}), weights = at::zeros({4});
  EXPECT_THAT([&] { TensorDataset dataset(images, labels, weights); },
              ThrowsError<DataError>({.place = "TensorDataset",
                                      .what = "do not have the same number of rows",
                                      .got = "tensor 2 with 4 rows",
                                      .expected = "5 rows as in tensor 0",
                                      .remedy = "one row of every tensor"}));
}

TEST(TensorDatasetErrors, AnUndefinedTensor) {
  const at::Tensor images = at::zeros({5, 2}), nothing;
  EXPECT_THAT([&] { TensorDataset dataset(images, nothing); },
              ThrowsError<DataError>({.place = "TensorDataset",
                                      .what = "rows",
                                      .got = "tensor 1 undefined",
                                      .expected = "5 rows as in tensor 0",
                                      .remedy = "one row of every tensor"}));
  EXPECT_THAT([&] { TensorDataset dataset(nothing, images); },
              ThrowsError<DataError>({.place = "TensorDataset",
                                      .what = "rows",
                                      .got = "tensor 0 undefined",
                                      .expected = "dimension 0 counts the examples",
                                      .remedy = "one row of every tensor"}));
}

TEST(TensorDatasetErrors, ANumberInPlaceOfATensor) {
  const at::Tensor images = at::zeros({5, 2}), scalar = at::zeros({});
  EXPECT_THAT([&] { TensorDataset dataset(images, scalar); },
              ThrowsError<DataError>({.place = "TensorDataset",
                                      .what = "rows",
                                      .got = "tensor 1 without a dimension",
                                      .expected = "5 rows as in tensor 0",
                                      .remedy = "one row of every tensor"}));
}

}  // namespace
}  // namespace accelerate
