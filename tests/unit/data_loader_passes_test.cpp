// Passes: what they visit, in which order, and what a break, a nested loop or an exception leaves behind.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/data/sampler.h"
#include "tests/support/tensors.h"

namespace accelerate {
namespace {

using support::integers;
using Numbers = std::vector<int64_t>;
using Rows = DataLoader<std::tuple<at::Tensor>>;

Rows rows(int64_t size, DataLoaderOptions options) { return Rows(TensorDataset(at::arange(size)), options); }

Numbers one_pass(const Rows& loader) {
  Numbers out;
  for (auto& [batch] : loader) {
    for (const int64_t value : integers(batch)) out.push_back(value);
  }
  return out;
}

std::vector<size_t> batch_sizes(const Rows& loader) {
  std::vector<size_t> out;
  for (auto& [batch] : loader) out.push_back(static_cast<size_t>(batch.size(0)));
  return out;
}

struct Any {
  int64_t size;
  DataLoaderOptions options;
};
Any any_loader() {
  const auto size = *rc::gen::inRange<int64_t>(1, 60);
  return {size,
          {.batch_size = *rc::gen::inRange<int64_t>(1, size + 1),
           .shuffle = *rc::gen::arbitrary<bool>(),
           .drop_last = *rc::gen::arbitrary<bool>(),
           .seed = *rc::gen::arbitrary<uint64_t>()}};
}

RC_GTEST_PROP(LoaderPass, VisitsTheOrderOfItsEpochInBatches, ()) {
  const auto [size, options] = any_loader();
  const Rows loader = rows(size, options);
  const auto epoch = *rc::gen::inRange<int64_t>(0, 1000);
  loader.set_epoch(epoch);
  Numbers order = options.shuffle ? shuffled_order(size, *options.seed, epoch) : sequential_order(size);
  const int64_t kept = options.drop_last ? size / options.batch_size * options.batch_size : size;
  order.resize(static_cast<size_t>(kept));
  RC_ASSERT(one_pass(loader) == order);
  RC_ASSERT(loader.num_samples() == size);
  const auto sizes = batch_sizes(loader);
  RC_ASSERT(static_cast<int64_t>(sizes.size()) == loader.size());
  for (size_t i = 0; i + 1 < sizes.size(); ++i) RC_ASSERT(static_cast<int64_t>(sizes[i]) == options.batch_size);
}

RC_GTEST_PROP(LoaderPass, PreparingChangesNeitherOrderNorBatches, ()) {
  const auto [size, options] = any_loader();
  const Rows loader = rows(size, options);
  Accelerator accelerator;
  const Rows prepared = accelerator.prepare(loader);
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    RC_ASSERT(prepared.epoch() == epoch && loader.epoch() == epoch);
    RC_ASSERT(one_pass(prepared) == one_pass(loader));
  }
  RC_ASSERT(prepared.size() == loader.size());
  RC_ASSERT(prepared.num_samples() == loader.num_samples());
}

TEST(LoaderEpochs, EveryPassThatEndsCountsAndTheOrderFollows) {
  const Rows loader = rows(30, {.batch_size = 7, .shuffle = true, .seed = 3});
  std::vector<Numbers> passes;
  for (int64_t epoch = 0; epoch < 4; ++epoch) {
    EXPECT_EQ(loader.epoch(), epoch);
    passes.push_back(one_pass(loader));
    EXPECT_EQ(passes.back(), shuffled_order(30, 3, epoch));
  }
  EXPECT_NE(passes[0], passes[1]);
  loader.set_epoch(1);
  EXPECT_EQ(one_pass(loader), passes[1]);
  EXPECT_EQ(one_pass(loader), passes[2]);
}

TEST(LoaderEpochs, APassThatIsBrokenOffCountsToo) {
  const Rows loader = rows(10, {.batch_size = 2, .shuffle = true, .seed = 3});
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    EXPECT_EQ(loader.epoch(), epoch);
    for (auto& [batch] : loader) {
      const Numbers order = shuffled_order(10, 3, epoch);
      EXPECT_EQ(integers(batch), Numbers(order.begin(), order.begin() + 2))
          << "steps per epoch must not repeat the data";
      break;
    }
  }
  EXPECT_EQ(one_pass(loader), shuffled_order(10, 3, 3));
}

TEST(LoaderEpochs, AnEpochSetDuringAPassIsTheNextOnes) {
  const Rows loader = rows(10, {.batch_size = 5, .shuffle = true, .seed = 3});
  Numbers seen;
  for (auto& [batch] : loader) {
    for (const int64_t value : integers(batch)) seen.push_back(value);
    loader.set_epoch(7);
  }
  EXPECT_EQ(seen, shuffled_order(10, 3, 0));
  EXPECT_EQ(loader.epoch(), 7);
  EXPECT_EQ(one_pass(loader), shuffled_order(10, 3, 7));
}

TEST(LoaderEpochs, EachOfSeveralPassesAtATimeCountsOne) {
  const Rows loader = rows(6, {.batch_size = 3});
  for (auto& outer : loader) {
    static_cast<void>(outer);
    one_pass(loader);
  }
  EXPECT_EQ(loader.epoch(), 3);
}

TEST(LoaderEpochs, CopiesShareTheCount) {
  const Rows loader = rows(4, {.batch_size = 2});
  const Rows copy = loader;
  one_pass(loader);
  EXPECT_EQ(copy.epoch(), 1);
  copy.set_epoch(5);
  EXPECT_EQ(loader.epoch(), 5);
}

TEST(LoaderEpochs, APreparedLoaderCountsItsOwnFromZero) {
  const Rows loader = rows(6, {.batch_size = 2, .shuffle = true, .seed = 3});
  one_pass(loader);
  one_pass(loader);
  Accelerator accelerator;
  const Rows prepared = accelerator.prepare(loader);
  EXPECT_EQ(prepared.epoch(), 0);
  EXPECT_EQ(one_pass(prepared), shuffled_order(6, 3, 0));
  EXPECT_EQ(prepared.epoch(), 1);
  EXPECT_EQ(loader.epoch(), 2);
}

// The seed of an order: given, or that of `set_seed` when the loader was built.

TEST(LoaderSeeds, AnUnsetSeedIsTheOneOfSetSeed) {
  set_seed(42);
  const Rows loader = rows(20, {.batch_size = 4, .shuffle = true});
  EXPECT_EQ(one_pass(loader), shuffled_order(20, 42, 0));
  set_seed(43);
  const Rows other = rows(20, {.batch_size = 4, .shuffle = true});
  EXPECT_EQ(one_pass(other), shuffled_order(20, 43, 0));
}

TEST(LoaderSeeds, WhatIsDrawnOrSeededLaterDoesNotChangeTheOrder) {
  set_seed(42);
  const Rows loader = rows(20, {.batch_size = 4, .shuffle = true});
  at::rand({100});
  set_seed(1);
  EXPECT_EQ(one_pass(loader), shuffled_order(20, 42, 0));
  Accelerator accelerator;
  set_seed(2);
  EXPECT_EQ(one_pass(accelerator.prepare(loader)), shuffled_order(20, 42, 0));
}

TEST(LoaderSeeds, AGivenSeedWins) {
  set_seed(42);
  EXPECT_EQ(one_pass(rows(20, {.batch_size = 4, .shuffle = true, .seed = 7})), shuffled_order(20, 7, 0));
  EXPECT_EQ(one_pass(rows(20, {.batch_size = 4, .shuffle = true, .seed = 0})), shuffled_order(20, 0, 0));
}

TEST(LoaderSeeds, IteratingDrawsNothingFromTheGenerator) {
  set_seed(42);
  const at::Tensor expected = at::rand({4});
  set_seed(42);
  one_pass(rows(20, {.batch_size = 4, .shuffle = true}));
  EXPECT_TRUE(at::equal(at::rand({4}), expected));
}

TEST(LoaderSeeds, BatchSizeAndAccumulationDoNotChangeTheOrderOfSamples) {
  const Numbers order = one_pass(rows(20, {.batch_size = 1, .shuffle = true, .seed = 9}));
  for (const int64_t size : {2, 3, 7, 20}) {
    EXPECT_EQ(one_pass(rows(20, {.batch_size = size, .shuffle = true, .seed = 9})), order) << size;
  }
}

// Several passes at once.

TEST(LoaderNesting, TwoPassesOverOneLoaderDoNotDisturbEachOther) {
  const Rows loader = rows(6, {.batch_size = 2});
  Numbers outer;
  std::vector<Numbers> inner;
  for (auto& [batch] : loader) {
    inner.push_back(one_pass(loader));
    for (const int64_t value : integers(batch)) outer.push_back(value);
  }
  EXPECT_EQ(outer, Numbers({0, 1, 2, 3, 4, 5}));
  EXPECT_THAT(inner, ::testing::Each(outer));
  EXPECT_EQ(inner.size(), 3U);
}

TEST(LoaderNesting, TwoShuffledPassesSideBySideTakeTheOrderOfTheirStart) {
  const Rows loader = rows(8, {.batch_size = 4, .shuffle = true, .seed = 3});
  auto first = loader.begin();
  auto second = loader.begin();
  for (int64_t batch = 0; batch < 2; ++batch) {
    if (batch > 0) ++first, ++second;
    const auto part = [&](int64_t epoch) {
      const Numbers order = shuffled_order(8, 3, epoch);
      return Numbers(order.begin() + 4 * batch, order.begin() + 4 * batch + 4);
    };
    EXPECT_EQ(integers(std::get<0>(*first)), part(0));
    EXPECT_EQ(integers(std::get<0>(*second)), part(1));
  }
  ++first;
  EXPECT_TRUE(first == loader.end());
  EXPECT_FALSE(second == loader.end());
}

TEST(LoaderLifetime, APassKeepsTheDataAliveAndALoaderOutlivesItsAccelerator) {
  auto accelerator = std::make_unique<Accelerator>();
  auto loader = std::make_unique<Rows>(accelerator->prepare(rows(4, {.batch_size = 2})));
  auto pass = loader->begin();
  loader.reset();
  accelerator.reset();
  EXPECT_EQ(integers(std::get<0>(*pass)), Numbers({0, 1}));
  ++pass;
  EXPECT_EQ(integers(std::get<0>(*pass)), Numbers({2, 3}));
  ++pass;
  EXPECT_TRUE(pass == std::default_sentinel);
}

TEST(LoaderLifetime, ABatchIsFreedBeforeTheNextIsMade) {
  struct Counting {
    std::shared_ptr<int> alive = std::make_shared<int>(0);
    int64_t size() const { return 4; }
    at::Tensor get_batch(std::span<const int64_t>) const {
      EXPECT_EQ(*alive, 0) << "the last batch is still held";
      ++*alive;
      const auto count = alive;
      return at::from_blob(new float(0), {1}, [count](void* data) {
        delete static_cast<float*>(data);
        --*count;
      });
    }
  };
  const Counting dataset;
  for (auto& batch : DataLoader(dataset, {})) EXPECT_EQ(batch.numel(), 1);
  EXPECT_EQ(*dataset.alive, 0);
}

// A data set that throws.

struct Failing {
  int64_t bad;
  int64_t size() const { return 6; }
  at::Tensor get(int64_t index) const {
    if (index == bad) throw std::runtime_error("sample " + std::to_string(index) + " is broken");
    return at::full({}, index, at::kLong);
  }
};

TEST(LoaderExceptions, TheDataSetsOwnExceptionArrivesAndTheLoaderStaysUsable) {
  for (const int64_t bad : {0, 3, 5}) {
    Accelerator accelerator;
    const auto loader = accelerator.prepare(DataLoader(Failing{bad}, {.batch_size = 2}));
    for (int attempt = 0; attempt < 2; ++attempt) {
      int64_t batches = 0;
      const auto pass = [&] {
        for (auto& batch : loader) batches += batch.size(0) == 2;
      };
      EXPECT_THAT(pass, ::testing::ThrowsMessage<std::runtime_error>("sample " + std::to_string(bad) + " is broken"));
      EXPECT_EQ(batches, bad / 2);
      EXPECT_EQ(loader.epoch(), attempt + 1);
    }
    // No pass is left registered: outside a loop nothing is cut off.
    EXPECT_EQ(accelerator.gather_for_metrics(at::ones({100})).size(0), 100);
  }
}

TEST(LoaderExceptions, AnExceptionInTheLoopLeavesNoPassBehind) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  const auto loader = accelerator.prepare(rows(5, {.batch_size = 2}));
  const auto fail_at_the_end = [&] {
    for (auto& [batch] : loader) {
      if (batch.size(0) == 1) throw std::runtime_error("in the loop");
    }
  };
  EXPECT_THROW(fail_at_the_end(), std::runtime_error);
  { auto window = accelerator.accumulate(); }
  EXPECT_FALSE(accelerator.sync_gradients()) << "the broken-off pass is still seen at its last batch";
}

}  // namespace
}  // namespace accelerate
