// Batches that are made and copied ahead, without a device: what arrives, when, and what errors leave behind.
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <numeric>

#include "accelerate/data/prefetch/pinned_ring.h"
#include "tests/unit/data_prefetch_support.h"

namespace {

using accelerate::BatchMemory;
using accelerate::DataLoader;
using accelerate::DataLoaderOptions;
using accelerate::DataShard;
using accelerate::TensorDataset;
using accelerate::internal::Slot;
using prefetching::Examples;
using prefetching::LateTransfer;
using prefetching::over;
using Numbers = std::vector<int64_t>;
using Batches = std::vector<Examples::Example>;

template <class Loader>
Batches pass_over(const Loader& loader) {
  Batches batches;
  for (auto& batch : loader) batches.push_back(batch);
  return batches;
}

bool same(const Batches& a, const Batches& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return at::equal(x.number, y.number) && at::equal(x.vector, y.vector);
  });
}

DataLoaderOptions any_options(int64_t size) {
  DataLoaderOptions options{.batch_size = *rc::gen::inRange<int64_t>(1, std::min<int64_t>(size, 7) + 1),
                            .shuffle = *rc::gen::arbitrary<bool>(),
                            .drop_last = *rc::gen::arbitrary<bool>(),
                            .seed = *rc::gen::arbitrary<uint64_t>(),
                            .num_workers = *rc::gen::inRange<int64_t>(0, 4)};
  if (options.num_workers > 0) options.prefetch_factor = *rc::gen::inRange<int64_t>(1, 4);
  return options;
}

/// The same, made on the thread of the loop.
DataLoaderOptions without_workers(DataLoaderOptions options) {
  options.num_workers = 0;
  options.prefetch_factor = {};
  return options;
}

RC_GTEST_PROP(Prefetch, TheSlowestDeviceGetsTheBatchesOfThePlainLoader, ()) {
  const auto size = *rc::gen::inRange<int64_t>(1, 60);
  const DataLoaderOptions options = any_options(size);
  const DataLoader expected(Examples{size}, without_workers(options));
  const auto transfer = std::make_shared<LateTransfer>();
  const auto loader = over(DataLoader(Examples{size}, options), transfer);
  for (int epoch = 0; epoch < 2; ++epoch) {
    const Batches got = pass_over(loader);
    transfer->run_all();  // nothing was read from the host before it had to be
    RC_ASSERT(same(got, pass_over(expected)));
  }
  Numbers in_order(static_cast<size_t>(2 * loader.size()));
  std::iota(in_order.begin(), in_order.end(), 0);
  RC_ASSERT(transfer->used == in_order);  // each batch's own copy, once
}

RC_GTEST_PROP(Prefetch, WorkersKeepTheOrderOfTheSampler, ()) {
  const auto size = *rc::gen::inRange<int64_t>(1, 60);
  DataLoaderOptions options = any_options(size);
  const Batches got = pass_over(DataLoader(Examples{size}, options));
  options.num_workers = 0;
  options.prefetch_factor = {};
  RC_ASSERT(same(got, pass_over(DataLoader(Examples{size}, options))));
}

TEST(Prefetch, TheCopyOfTheNextBatchIsQueuedBeforeABatchIsHandedOut) {
  const auto transfer = std::make_shared<LateTransfer>();
  const auto loader = over(DataLoader(Examples{10}, {.batch_size = 2}), transfer);
  Numbers started;
  for (auto& batch : loader) {
    static_cast<void>(batch);
    started.push_back(transfer->started);
    EXPECT_EQ(transfer->used.size(), started.size()) << "and of no other batch has the computation to wait";
  }
  EXPECT_EQ(started, (Numbers{2, 3, 4, 5, 5}));
}

TEST(Prefetch, WithoutADeviceNothingIsMadeAhead) {
  const Examples examples{10};
  Numbers made;
  for (auto& batch : DataLoader(examples, {.batch_size = 2})) {
    static_cast<void>(batch);
    made.push_back(*examples.made);
  }
  EXPECT_EQ(made, (Numbers{2, 4, 6, 8, 10}));
}

TEST(Prefetch, TheHostWaitsForNoCopyThatIsThroughInTime) {
  for (const int64_t workers : {0, 2}) {
    const auto transfer = std::make_shared<LateTransfer>();
    transfer->prompt = true;
    pass_over(over(DataLoader(Examples{200}, {.batch_size = 2, .num_workers = workers}), transfer));
    EXPECT_EQ(transfer->waits, 0);
    EXPECT_EQ(transfer->started, 100);
    EXPECT_LE(transfer->allocations, 2 * workers + 3) << "slots are used again";
  }
}

TEST(Prefetch, ADeviceThatIsFarBehindLimitsWhatTheHostHolds) {
  for (const int64_t workers : {0, 3}) {
    const auto transfer = std::make_shared<LateTransfer>();
    const auto loader = over(DataLoader(Examples{200}, {.batch_size = 2, .num_workers = workers}), transfer);
    pass_over(loader);
    EXPECT_GT(transfer->waits, 0);
    EXPECT_LE(transfer->allocations, 2 * workers + 3);
  }
}

/// Numbers of the batches that came before an error, which is written into `error`.
template <class Loader>
Numbers until_error(const Loader& loader, std::string& error) {
  Numbers seen;
  try {
    for (auto& batch : loader) seen.push_back(batch.number[0].template item<int64_t>());
  } catch (const std::runtime_error& caught) {
    error = caught.what();
  }
  return seen;
}

TEST(Prefetch, AnErrorOfTheDataSetComesWithItsBatch) {
  for (const int64_t workers : {0, 1, 3}) {
    for (const bool with_transfer : {false, true}) {
      auto transfer = with_transfer ? std::make_shared<LateTransfer>() : nullptr;
      if (transfer) transfer->prompt = true;
      const auto loader =
          over(DataLoader(Examples{.count = 20, .broken = 9}, {.batch_size = 2, .num_workers = workers}), transfer);
      for (int pass = 0; pass < 2; ++pass) {
        std::string error;
        EXPECT_EQ(until_error(loader, error), (Numbers{0, 2, 4, 6})) << workers;
        EXPECT_EQ(error, "example 9 is broken");
      }
    }
  }
}

TEST(Prefetch, AnErrorBehindABreakIsNobodys) {
  const auto transfer = std::make_shared<LateTransfer>();
  const auto loader = over(DataLoader(Examples{.count = 6, .broken = 3}, {.batch_size = 2}), transfer);
  for (auto& batch : loader) {
    static_cast<void>(batch);
    break;  // the broken one was made ahead
  }
  EXPECT_EQ(loader.epoch(), 1);
}

TEST(Prefetch, ADeviceWithoutMemoryForTheNextBatchIsAskedAgainWhenItIsDue) {
  const auto transfer = std::make_shared<LateTransfer>();
  transfer->prompt = true;
  int64_t asked = 0;
  transfer->fails = [&](int64_t number) {
    if (number == 1 && ++asked == 1) TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried");
  };
  const auto loader = over(DataLoader(Examples{6}, {.batch_size = 2}), transfer);
  EXPECT_TRUE(same(pass_over(loader), pass_over(DataLoader(Examples{6}, {.batch_size = 2}))));
  EXPECT_EQ(asked, 2);
}

TEST(Prefetch, ADeviceThatStaysWithoutMemorySaysSoAtThatBatch) {
  const auto transfer = std::make_shared<LateTransfer>();
  transfer->prompt = true;
  transfer->fails = [&](int64_t number) {
    TORCH_CHECK_WITH(OutOfMemoryError, number != 2, "CUDA out of memory. Tried");
  };
  int64_t batches = 0;
  EXPECT_THROW(
      for (auto& batch
           : over(DataLoader(Examples{10}, {.batch_size = 2}), transfer)) {
        static_cast<void>(batch);
        ++batches;
      },
      c10::OutOfMemoryError);
  EXPECT_EQ(batches, 2);
}

TEST(Prefetch, RoundsThatBecomeUnevenAreMadeAnew) {
  // 7 samples for 2 ranks in batches of 2: the second round lacks one of rank 1's.
  for (const int64_t workers : {0, 2}) {
    const auto transfer = std::make_shared<LateTransfer>();
    transfer->prompt = true;
    const auto loader = over(DataLoader(Examples{7}, {.batch_size = 2, .num_workers = workers}), transfer,
                             {.rank = 1, .size = 2, .even_batches = true});
    std::vector<Numbers> seen;
    for (auto& batch : loader) {
      seen.emplace_back(batch.number.template data_ptr<int64_t>(),
                        batch.number.template data_ptr<int64_t>() + batch.number.numel());
      loader.core()->set_even_batches(false);
    }
    EXPECT_EQ(seen, (std::vector<Numbers>{{2, 3}, {6}})) << "the even round would be {6, 0}";
  }
}

/// Rows in memory are taken straight to where the device copies from, once that is as large as a batch.
RC_GTEST_PROP(Prefetch, RowsOfTensorsAreThoseOfThePlainLoader, ()) {
  const auto size = *rc::gen::inRange<int64_t>(1, 60);
  const DataLoaderOptions options = any_options(size);
  const TensorDataset rows(at::randn({size, 3}), at::arange(size));
  const auto transfer = std::make_shared<LateTransfer>();
  std::vector<std::tuple<at::Tensor, at::Tensor>> got, expected;
  for (auto& batch : over(DataLoader(rows, options), transfer)) got.push_back(batch);
  transfer->run_all();
  for (auto& batch : DataLoader(rows, without_workers(options))) expected.push_back(batch);
  RC_ASSERT(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    RC_ASSERT(at::equal(std::get<0>(got[i]), std::get<0>(expected[i])));
    RC_ASSERT(at::equal(std::get<1>(got[i]), std::get<1>(expected[i])));
  }
}

/// A tensor of any kind that a data set may give.
at::Tensor any_tensor() {
  const auto kind = *rc::gen::element(at::kFloat, at::kDouble, at::kLong, at::kBool, at::kHalf, at::kByte,
                                      at::kComplexDouble, at::kBFloat16);
  const auto sizes = *rc::gen::container<Numbers>(*rc::gen::inRange<size_t>(0, 4), rc::gen::inRange<int64_t>(0, 5));
  at::Tensor tensor = at::randint(0, 2, sizes, at::kDouble).to(kind);
  if (tensor.dim() >= 2 && *rc::gen::arbitrary<bool>()) tensor = tensor.transpose(0, -1);
  if (tensor.dim() >= 1 && *rc::gen::arbitrary<bool>()) tensor = tensor.slice(0, 0, std::nullopt, 2);
  if (*rc::gen::arbitrary<bool>()) {  // one row that is read three times
    std::vector<int64_t> repeated{3};
    repeated.insert(repeated.end(), tensor.sizes().begin(), tensor.sizes().end());
    tensor = tensor.unsqueeze(0).expand(repeated);
  }
  if (tensor.is_complex() && *rc::gen::arbitrary<bool>()) tensor = at::conj(tensor);
  return tensor;
}

RC_GTEST_PROP(Stage, HasTheValuesAndStridesThatMovingGives, ()) {
  auto tensors = std::make_shared<std::vector<at::Tensor>>();
  const auto count = *rc::gen::inRange(0, 5);
  for (int i = 0; i < count; ++i) tensors->push_back(any_tensor());
  tensors->emplace_back();  // and an undefined one
  const auto before = *tensors;
  const Slot slot{tensors, [](void* value, accelerate::internal::TensorVisitor visit) {
                    for (at::Tensor& tensor : *static_cast<std::vector<at::Tensor>*>(value)) visit(tensor);
                  }};
  const int64_t bytes = accelerate::internal::staged_bytes(slot);
  Slot batch = slot;
  if (bytes > 0) {
    BatchMemory little(at::empty({bytes - 1}, at::kByte));
    RC_ASSERT(!accelerate::internal::stage(batch, little));
    RC_ASSERT(tensors->front().is_same(before.front()));
  }
  const at::Tensor memory = at::empty({bytes}, at::kByte);
  BatchMemory room(memory);
  RC_ASSERT(accelerate::internal::stage(batch, room));
  RC_ASSERT(room.left() == 0);
  for (int i = 0; i < count; ++i) {
    const at::Tensor& staged = tensors->at(static_cast<size_t>(i));
    const at::Tensor moved = before[static_cast<size_t>(i)].to(at::kCPU, false, /*copy=*/true);
    RC_ASSERT(at::equal(staged, moved.resolve_conj()));
    RC_ASSERT(staged.sizes() == moved.sizes() && staged.scalar_type() == moved.scalar_type());
    RC_ASSERT(staged.strides() == moved.strides());
    RC_ASSERT(staged.storage().is_alias_of(memory.storage()));
  }
  RC_ASSERT(!tensors->back().defined());
}

/// What a data set has made there stays; the rest comes behind it.
TEST(Stage, CopiesOnlyWhatIsNotThere) {
  const at::Tensor memory = at::zeros({64 * 4}, at::kByte);
  BatchMemory room(memory);
  auto tensors = std::make_shared<std::vector<at::Tensor>>();
  tensors->push_back(room.empty({2, 3}, at::kFloat).fill_(7));
  tensors->push_back(at::full({5}, 3, at::kLong));
  tensors->push_back(room.empty({2, 4}, at::kFloat).fill_(5).slice(1, 0, std::nullopt, 2));  // has gaps
  Slot batch{tensors, [](void* value, accelerate::internal::TensorVisitor visit) {
               for (at::Tensor& tensor : *static_cast<std::vector<at::Tensor>*>(value)) visit(tensor);
             }};
  const at::Tensor first = tensors->at(0);
  ASSERT_TRUE(accelerate::internal::stage(batch, room));
  EXPECT_TRUE(tensors->at(0).is_same(first));
  EXPECT_TRUE(at::equal(tensors->at(0), at::full({2, 3}, 7.0F)));
  EXPECT_TRUE(at::equal(tensors->at(1), at::full({5}, 3, at::kLong)));
  EXPECT_TRUE(at::equal(tensors->at(2), at::full({2, 2}, 5.0F)));
  for (const at::Tensor& tensor : *tensors) {
    EXPECT_TRUE(room.has(tensor));
    EXPECT_TRUE(tensor.is_contiguous());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 64,
              reinterpret_cast<uintptr_t>(memory.const_data_ptr()) % 64);
  }
  EXPECT_EQ(room.left(), 0);
  EXPECT_FALSE(room.has(room.empty({1}, at::kFloat))) << "an ordinary one, where nothing is left";
}

bool small(std::vector<at::Tensor> tensors) {
  std::vector<at::Tensor*> pointers;
  for (at::Tensor& tensor : tensors) pointers.push_back(&tensor);
  return accelerate::internal::are_small(pointers);
}

TEST(Transfer, SmallBatchesLieInOneMemoryWithoutGaps) {
  constexpr int64_t kMost = 512 << 10;
  const at::Tensor memory = at::empty({2 * kMost}, at::kByte);
  BatchMemory room(memory);
  const at::Tensor most = room.empty({kMost}, at::kByte), rest = room.empty({1}, at::kByte);
  const at::Tensor half = most.narrow(0, 0, kMost / 2), columns = half.view({-1, 4}), none = room.empty({0}, at::kInt);
  EXPECT_TRUE(small({most}));
  EXPECT_TRUE(small({most, none}));
  EXPECT_FALSE(small({most, rest}));
  EXPECT_TRUE(small({half, rest}));
  EXPECT_TRUE(small({columns.t(), rest}));
  EXPECT_FALSE(small({columns.slice(1, 0, 3), rest}));
  EXPECT_FALSE(small({half, at::empty({1}, at::kByte)}));
}

TEST(Stage, LeavesWhatMovesByItselfAlone) {
  const at::Tensor sparse = at::eye(3).to_sparse(), trained = at::ones({2}).requires_grad_();
  EXPECT_FALSE(accelerate::internal::can_be_staged(sparse));
  EXPECT_FALSE(accelerate::internal::can_be_staged(trained));
  EXPECT_FALSE(accelerate::internal::can_be_staged(at::empty({2}, at::kMeta)));
}

}  // namespace
