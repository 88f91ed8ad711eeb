// Which pass is the current one, and what it says about its end. Source of the cases: `accelerate.state.GradientState`
// and `DataLoaderShard`; a pass that is broken off leaves here, there it stays.
#include "accelerate/data/active_loaders.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <memory>
#include <vector>

#include "accelerate/data/datasets/tensor_dataset.h"
#include "accelerate/data/loader.h"
#include "accelerate/tensor/seed.h"

namespace accelerate {
namespace {

using Rows = DataLoader<std::tuple<at::Tensor>>;

struct ActiveLoadersTest : ::testing::Test {
  std::shared_ptr<ActiveLoaders> active = std::make_shared<ActiveLoaders>();

  Rows prepared(int64_t size, DataLoaderOptions options) const {
    const Rows loader(TensorDataset(at::arange(size)), options);
    return Rows(loader.core()->prepared({.device = c10::Device(c10::kCPU), .active = active}));
  }
};

TEST_F(ActiveLoadersTest, OutsideALoopNothingIsKnown) {
  EXPECT_FALSE(active->in_dataloader());
  EXPECT_FALSE(active->end_of_dataloader());
  EXPECT_EQ(active->remainder(), -1);
}

TEST_F(ActiveLoadersTest, TheEndIsSeenExactlyAtTheLastBatchOfEveryPass) {
  const Rows loader = prepared(16, {.batch_size = 4});
  for (int pass = 0; pass < 2; ++pass) {
    int64_t index = 0;
    for (auto& [batch] : loader) {
      EXPECT_EQ(batch.size(0), 4);
      EXPECT_TRUE(active->in_dataloader());
      EXPECT_EQ(active->end_of_dataloader(), index == 3) << index;
      EXPECT_EQ(active->remainder(), 0);
      ++index;
    }
    EXPECT_FALSE(active->in_dataloader());
    EXPECT_FALSE(active->end_of_dataloader());
  }
}

// 80 and 96 samples in batches of 16: the inner loop is the active one while it runs, then the outer one again.
TEST_F(ActiveLoadersTest, AnInnerLoopIsActiveUntilItEnds) {
  const Rows outer = prepared(80, {.batch_size = 16});
  const Rows inner = prepared(97, {.batch_size = 16});
  int64_t outer_index = 0;
  for (auto& [outer_batch] : outer) {
    EXPECT_EQ(outer_batch.size(0), 16);
    if (outer_index == 1) {
      int64_t inner_index = 0;
      for (auto& [inner_batch] : inner) {
        EXPECT_EQ(inner_batch.size(0), inner_index == 6 ? 1 : 16);
        EXPECT_EQ(active->remainder(), 1) << "the inner pass is the active one";
        EXPECT_EQ(active->end_of_dataloader(), inner_index == 6) << inner_index;
        ++inner_index;
      }
      EXPECT_EQ(inner_index, 7);
    }
    EXPECT_EQ(active->remainder(), 0) << "the outer pass is active again";
    EXPECT_EQ(active->end_of_dataloader(), outer_index == 4) << outer_index;
    ++outer_index;
  }
  EXPECT_FALSE(active->in_dataloader());
}

TEST_F(ActiveLoadersTest, AnInnerLoopAtTheOutersLastBatchDoesNotHideItsEnd) {
  const Rows outer = prepared(4, {.batch_size = 2});
  const Rows inner = prepared(4, {.batch_size = 1});
  int64_t outer_index = 0;
  for (auto& [batch] : outer) {
    EXPECT_EQ(batch.size(0), 2);
    for (auto& [inner_batch] : inner) {
      EXPECT_EQ(active->end_of_dataloader(), inner_batch.item<int64_t>() == 3);
    }
    EXPECT_EQ(active->end_of_dataloader(), outer_index == 1);
    ++outer_index;
  }
}

TEST_F(ActiveLoadersTest, APassInsideAPassOverTheSameLoaderHasAnEndOfItsOwn) {
  const Rows loader = prepared(3, {.batch_size = 1});
  for (auto& [outer] : loader) {
    const bool last = outer.item<int64_t>() == 2;
    EXPECT_EQ(active->end_of_dataloader(), last);
    for (auto& [inner] : loader) EXPECT_EQ(active->end_of_dataloader(), inner.item<int64_t>() == 2);
    EXPECT_EQ(active->end_of_dataloader(), last) << "the inner pass must not change what the outer one says";
  }
  EXPECT_FALSE(active->in_dataloader());
}

TEST_F(ActiveLoadersTest, ABreakLeaves) {
  const Rows outer = prepared(4, {.batch_size = 2});
  const Rows inner = prepared(5, {.batch_size = 2});
  for (auto& [batch] : outer) {
    for (auto& [inner_batch] : inner) {
      if (inner_batch.size(0) == 1) break;
    }
    EXPECT_EQ(active->remainder(), 0) << "the outer pass is active again";
    if (batch.size(0) == 2) break;
  }
  EXPECT_FALSE(active->in_dataloader());
}

TEST_F(ActiveLoadersTest, AnExceptionLeaves) {
  const Rows outer = prepared(4, {.batch_size = 2});
  const Rows inner = prepared(4, {.batch_size = 2});
  const auto fail = [&] {
    for (auto& [batch] : outer) {
      for (auto& [inner_batch] : inner) throw std::runtime_error(batch.size(0) == inner_batch.size(0) ? "a" : "b");
    }
  };
  EXPECT_THROW(fail(), std::runtime_error);
  EXPECT_FALSE(active->in_dataloader());
}

TEST_F(ActiveLoadersTest, PassesMayEndInAnyOrder) {
  const Rows first = prepared(5, {.batch_size = 2});
  const Rows second = prepared(8, {.batch_size = 2});
  auto a = std::make_unique<Rows::Iterator>(first.begin());
  auto b = std::make_unique<Rows::Iterator>(second.begin());
  EXPECT_EQ(active->remainder(), 0);
  a.reset();
  EXPECT_EQ(active->remainder(), 0) << "the later pass stays active";
  b.reset();
  EXPECT_FALSE(active->in_dataloader());
  auto c = std::make_unique<Rows::Iterator>(first.begin());
  auto d = std::make_unique<Rows::Iterator>(second.begin());
  d.reset();
  EXPECT_EQ(active->remainder(), 1);
}

TEST_F(ActiveLoadersTest, AnUnpreparedLoaderIsNeverActive) {
  const Rows plain(TensorDataset(at::arange(4)), {.batch_size = 2});
  for (auto& [batch] : plain) EXPECT_FALSE(active->in_dataloader()) << batch;
  const Rows loader = prepared(4, {.batch_size = 2});
  for (auto& [batch] : loader) {
    for (auto& [inner] : plain) {
      EXPECT_EQ(active->end_of_dataloader(), batch[0].item<int64_t>() == 2) << inner;
    }
  }
}

TEST_F(ActiveLoadersTest, AccumulationsOfOtherAcceleratorsAreApart) {
  const auto other = std::make_shared<ActiveLoaders>();
  const Rows loader = prepared(2, {.batch_size = 2});
  for (auto& [batch] : loader) {
    EXPECT_EQ(batch.size(0), 2);
    EXPECT_TRUE(active->end_of_dataloader());
    EXPECT_FALSE(other->in_dataloader());
  }
}

RC_GTEST_PROP(ActiveLoaders, TheRemainderIsTheSizeOfAShortLastBatch, ()) {
  const auto active = std::make_shared<ActiveLoaders>();
  const auto size = *rc::gen::inRange<int64_t>(1, 40);
  const DataLoaderOptions options{.batch_size = *rc::gen::inRange<int64_t>(1, size + 1),
                                  .shuffle = *rc::gen::arbitrary<bool>(),
                                  .drop_last = *rc::gen::arbitrary<bool>(),
                                  .seed = 1};
  const Rows loader(Rows(TensorDataset(at::arange(size)), options)
                        .core()
                        ->prepared({.device = c10::Device(c10::kCPU), .active = active}));
  int64_t index = 0;
  for (auto& [batch] : loader) {
    const bool last = ++index == loader.size();
    RC_ASSERT(active->end_of_dataloader() == last);
    const int64_t remainder = active->remainder();
    if (options.drop_last) {
      RC_ASSERT(remainder == -1);
    } else if (last) {
      RC_ASSERT(remainder == (batch.size(0) == options.batch_size ? 0 : batch.size(0)));
    }
  }
  RC_ASSERT(!active->in_dataloader());
}

}  // namespace
}  // namespace accelerate
