// Prepared loaders of several ranks: the same order everywhere, every sample once, and updates of the whole batch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::DataError;
using accelerate::DataLoader;
using accelerate::DataLoaderConfiguration;
using accelerate::DataLoaderOptions;
using accelerate::TensorDataset;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

using Ids = std::vector<int64_t>;

Ids ids_of(const at::Tensor& tensor) {
  const at::Tensor own = tensor.contiguous();
  return {own.const_data_ptr<int64_t>(), own.const_data_ptr<int64_t>() + own.numel()};
}

auto loader_of(int64_t samples, DataLoaderOptions options) {
  return DataLoader(TensorDataset(torch::arange(samples)), options);
}

struct Case {
  int64_t ranks = 2, samples = 1, batch_size = 1;
  bool shuffle = false;
};

Case any_case() {
  return {.ranks = *rc::gen::inRange<int64_t>(2, 5),
          .samples = *rc::gen::inRange<int64_t>(1, 60),
          .batch_size = *rc::gen::inRange<int64_t>(1, 6),
          .shuffle = *rc::gen::arbitrary<bool>()};
}

// Each rank has a seed of its own, as unseeded processes have: that of rank 0 counts.
RC_GTEST_PROP(DataOfRanks, GatheredForMetricsAPassIsTheOneOfASingleProcess, ()) {
  const Case c = any_case();
  std::vector<Ids> epochs(2);
  const auto whole = loader_of(c.samples, {.batch_size = c.batch_size, .shuffle = c.shuffle, .seed = 40});
  for (Ids& epoch : epochs) {
    for (auto& [ids] : whole) {
      const Ids batch = ids_of(ids);
      epoch.insert(epoch.end(), batch.begin(), batch.end());
    }
  }
  run_ranks(c.ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    const auto loader = accelerator.prepare(
        loader_of(c.samples,
                  {.batch_size = c.batch_size, .shuffle = c.shuffle, .seed = static_cast<uint64_t>(40 + rank.rank())}));
    for (const Ids& epoch : epochs) {
      Ids seen;
      int64_t batches = 0;
      for (auto& [ids] : loader) {
        EXPECT_EQ(ids.size(0), c.batch_size) << "batches are filled up";
        const Ids batch = ids_of(accelerator.gather_for_metrics(ids));
        seen.insert(seen.end(), batch.begin(), batch.end());
        ++batches;
      }
      EXPECT_EQ(seen, epoch);
      EXPECT_EQ(batches, loader.size());
    }
    EXPECT_EQ(loader.total_batch_size(), c.batch_size * c.ranks);
    EXPECT_EQ(loader.num_samples(), c.samples);
  });
}

TEST(DataOfRanks, SplitBatchesArePartsOfTheLoadersOwn) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.split_batches = true}}));
    const auto loader = accelerator.prepare(loader_of(8, {.batch_size = 4}));
    EXPECT_EQ(loader.size(), 2);
    EXPECT_EQ(loader.total_batch_size(), 4);
    Ids seen;
    for (auto& [ids] : loader) {
      const Ids batch = ids_of(ids);
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(seen, rank.rank() == 0 ? (Ids{0, 1, 4, 5}) : (Ids{2, 3, 6, 7}));
  });
}

// A check of the original, at sizes that divide.
RC_GTEST_PROP(DataOfRanks, ShuffledSplitBatchesTogetherHaveEverySampleOnce, ()) {
  const int64_t ranks = *rc::gen::inRange<int64_t>(2, 5);
  const int64_t batch_size = ranks * *rc::gen::inRange<int64_t>(1, 4);
  const int64_t samples = batch_size * *rc::gen::inRange<int64_t>(1, 9);
  run_ranks(ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.split_batches = true}}));
    const auto loader = accelerator.prepare(loader_of(samples, {.batch_size = batch_size, .shuffle = true}));
    Ids seen;
    for (auto& [ids] : loader) {
      EXPECT_EQ(ids.size(0), batch_size / ranks);
      const Ids batch = ids_of(accelerator.gather(ids));
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, ids_of(torch::arange(samples)));
  });
}

TEST(DataOfRanks, RaggedEndsKeepEverySampleOnce) {
  std::vector<Ids> seen(3);
  run_ranks(3, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.even_batches = false}}));
    const auto loader = accelerator.prepare(loader_of(8, {.batch_size = 2}));
    Ids& own = seen.at(static_cast<size_t>(rank.rank()));
    for (auto& [ids] : loader) {
      const Ids batch = ids_of(ids);
      own.insert(own.end(), batch.begin(), batch.end());
    }
  });
  EXPECT_EQ(seen, (std::vector<Ids>{{0, 1, 6, 7}, {2, 3}, {4, 5}}));
}

TEST(DataOfRanks, WindowsEndWithTheRanksOwnLastBatch) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    torch::nn::Linear net(1, 1);
    auto [model, loader] = accelerator.prepare(net, loader_of(12, {.batch_size = 2}));
    std::vector<bool> synchronised;
    for ([[maybe_unused]] auto& batch : loader) {
      const auto window = accelerator.accumulate(model);
      synchronised.push_back(accelerator.sync_gradients());
    }
    EXPECT_EQ(synchronised, (std::vector<bool>{false, true, true})) << "3 batches each, not 6";
  });
}

TEST(DataOfRanks, DifferentLoadersAreNamedOnEveryRank) {
  run_ranks(3, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    EXPECT_THAT([&] { accelerator.prepare(loader_of(rank.rank() == 2 ? 9 : 10, {.batch_size = 2})); },
                ThrowsError<DataError>({.place = "prepare",
                                        .got = "9 examples, .batch_size = 2, .shuffle = false, .drop_last = false on "
                                               "process 2",
                                        .expected = "10 examples, .batch_size = 2, .shuffle = false",
                                        .remedy = "the same loader"}));
    EXPECT_THROW(accelerator.prepare(loader_of(10, {.batch_size = 2, .shuffle = rank.rank() == 1})), DataError);
    EXPECT_THROW(accelerator.prepare(loader_of(10, {.batch_size = 2, .drop_last = rank.rank() == 1})), DataError);
    EXPECT_THROW(accelerator.prepare(loader_of(10, {.batch_size = 1 + rank.rank()})), DataError);
    EXPECT_EQ(accelerator.prepare(loader_of(10, {.batch_size = 2})).size(), 2) << "and the Accelerator goes on";
  });
}

TEST(DataOfRanks, WithDropLastAPassWithoutAFullRoundIsRefused) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    EXPECT_THAT([&] { accelerator.prepare(loader_of(5, {.batch_size = 3, .drop_last = true})); },
                ThrowsError<DataError>({.place = "DataLoader",
                                        .got = "5 examples with .batch_size = 3 and .drop_last = true over 2 processes",
                                        .expected = "at least 6",
                                        .remedy = "Lower the batch size"}));
  });
}

TEST(DataOfRanks, ABatchThatCannotBeSplitIsRefused) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.dataloader_config = DataLoaderConfiguration{.split_batches = true}}));
    EXPECT_THAT([&] { accelerator.prepare(loader_of(9, {.batch_size = 3})); },
                ThrowsError<ConfigError>({.place = "split_batches",
                                          .got = ".batch_size = 3 for 2 processes",
                                          .expected = "round multiple",
                                          .remedy = "batch_size"}));
  });
}

TEST(DataOfRanks, MoreSamplesThanCanBeCountedAreRefused) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    EXPECT_THAT([&] { accelerator.prepare(loader_of(9, {.batch_size = std::numeric_limits<int64_t>::max()})); },
                ThrowsError<ConfigError>(
                    {.place = "DataLoader", .got = "9223372036854775807", .expected = "2^63", .remedy = "Lower"}));
  });
}

// -- updates -----------------------------------------------------------------------------------------------------

struct Training {
  int64_t ranks = 1, samples = 1, batch_size = 1, accumulation = 1;
  bool shuffle = false;
};

at::Tensor rows(int64_t count, int64_t width, double phase) {
  return torch::sin(torch::arange(count * width, at::kDouble) * 1.7 + phase).view({count, width});
}

torch::nn::Linear net_of() {
  torch::nn::Linear net(3, 2);
  const torch::NoGradGuard no_grad;
  net->to(at::kDouble);
  net->weight.copy_(rows(2, 3, 0.5));
  net->bias.zero_();
  return net;
}

/// Two epochs with an untied schedule; the parameters at the end.
std::vector<at::Tensor> train(const Training& run, accelerate::AcceleratorOptions options) {
  options.gradient_accumulation_steps = run.accumulation;
  options.step_scheduler_with_optimizer = false;
  Accelerator accelerator(std::move(options));
  const torch::nn::Linear net = net_of();
  auto [model, optimizer, loader, scheduler] = accelerator.prepare(
      net, torch::optim::SGD(net->parameters(), torch::optim::SGDOptions(0.2).momentum(0.9)),
      DataLoader(TensorDataset(rows(run.samples, 3, 0), rows(run.samples, 2, 2)),
                 {.batch_size = run.batch_size, .shuffle = run.shuffle, .drop_last = true, .seed = 3}),
      accelerate::cosine({.warmup_steps = 2, .total_steps = 40}));
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    for (auto& [x, y] : loader) {
      const auto window = accelerator.accumulate(model);
      accelerator.backward(torch::nn::functional::mse_loss(model(x), y));
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
    }
  }
  std::vector<at::Tensor> values;
  for (const at::Tensor& parameter : net->parameters()) values.push_back(parameter.detach().clone());
  return values;
}

// Each rank still has its share of an order that all have.
TEST(FreedLoaderOfRanks, StillSharesItsSamplesOut) {
  std::vector<Ids> seen(2);
  run_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(
        rank.options({.dataloader_config = DataLoaderConfiguration{.use_seedable_sampler = false}}));
    auto loader = accelerator.prepare(loader_of(64, {.batch_size = 4, .shuffle = true}));
    accelerator.free_memory();
    Ids& own = seen[static_cast<size_t>(rank.rank())];
    for (auto& [ids] : loader) {
      for (const int64_t id : ids_of(ids)) own.push_back(id);
    }
    EXPECT_THAT([&] { accelerator.prepare(loader); },
                ThrowsError<accelerate::UsageError>({.place = "prepare",
                                                     .what = "data loader was let go by free_memory()",
                                                     .got = "the handle from before",
                                                     .expected = "what it was prepared from",
                                                     .remedy = "Pass the original data loader"}));
    accelerator.end_training();
    // Alone from here on: not every rank goes through it.
    int64_t batches = 0;
    for (int64_t pass = 0; pass < rank.rank(); ++pass) {
      for ([[maybe_unused]] auto& batch : loader) ++batches;
    }
    EXPECT_EQ(batches, 8 * rank.rank());
  });
  Ids all = seen[0];
  all.insert(all.end(), seen[1].begin(), seen[1].end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, ids_of(torch::arange(64)));
}

// Rank 1 has had a batch more by then than its share of uneven ones.
TEST(LoaderOfRanks, EndsWhenAJoinTurnsItsBatchesUnevenAtItsLastEvenOne) {
  run_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto [model, loader] = accelerator.prepare(net_of(), loader_of(10, {.batch_size = 4}));
    std::optional<accelerate::UnevenJoin> join;
    int64_t batches = 0;
    for ([[maybe_unused]] auto& batch : loader) {
      if (++batches == 2) join.emplace(accelerator.join_uneven_inputs({model}, {.even_batches = false}));
    }
    EXPECT_EQ(batches, 2);
    join->finish();
  });
}

RC_GTEST_PROP(UpdateOfRanks, IsThatOfOneProcessWithTheWholeBatch, ()) {
  Training run{.ranks = *rc::gen::inRange<int64_t>(2, 5),
               .samples = 0,
               .batch_size = *rc::gen::inRange<int64_t>(1, 4),
               .accumulation = *rc::gen::inRange<int64_t>(1, 5),
               .shuffle = *rc::gen::arbitrary<bool>()};
  const int64_t whole = run.ranks * run.batch_size;
  run.samples = *rc::gen::inRange<int64_t>(whole, 5 * whole + 1);
  Training one = run;
  one.batch_size = whole;
  const std::vector<at::Tensor> expected = train(one, {});
  run_ranks(run.ranks, [&](const Rank& rank) {
    const std::vector<at::Tensor> got = train(run, rank.options());
    for (size_t i = 0; i < expected.size(); ++i) {
      // Sums over a batch in another order, in double precision, a few dozen times.
      EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-11, 1e-12)) << got[i] << expected[i];
    }
  });
}

}  // namespace
