// Losses with counts: whatever the number of ranks and micro-steps and however ragged their batches, the update is that
// of one process with everything in one batch.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::BackwardOptions;
using ddp::Accelerator;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;

/// How a micro-step hands its loss over.
enum class Way { kSum, kSumOnDevice, kMean };

struct Training {
  int64_t ranks = 1;
  int64_t steps = 1;    ///< micro-steps of a window
  int64_t windows = 2;  ///< updates
  Way way = Way::kSum;
  bool each_batch = false;
  bool adam = false;
  accelerate::Ddp ddp;
  std::vector<int64_t> rows;  ///< of window, micro-step, rank

  int64_t rows_of(int64_t window, int64_t step, int64_t rank) const {
    return rows.at(static_cast<size_t>((window * steps + step) * ranks + rank));
  }
  at::Tensor batch(int64_t window, int64_t step, int64_t rank) const {
    return ddp::inputs(rank, window * steps + step, rows_of(window, step, rank));
  }
};

at::Tensor sum_of(const at::Tensor& output) { return torch::pow(output - 0.3, 2).sum(); }

std::unique_ptr<torch::optim::Optimizer> optimizer_of(const Training& run, const Tensors& parameters) {
  // The eps keeps Adam from dividing rounding errors by themselves.
  if (run.adam) return std::make_unique<torch::optim::AdamW>(parameters, torch::optim::AdamWOptions(1e-2).eps(1e-3));
  return std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.1).momentum(0.9));
}

constexpr double kMaxNorm = 0.5;  // clipping bites at the first updates

/// LibTorch alone, one batch a window.
Tensors in_one_batch(const Training& run) {
  Mlp net(1);
  const auto optimizer = optimizer_of(run, net->parameters());
  for (int64_t window = 0; window < run.windows; ++window) {
    Tensors parts;
    for (int64_t step = 0; step < run.steps; ++step) {
      for (int64_t rank = 0; rank < run.ranks; ++rank) parts.push_back(run.batch(window, step, rank));
    }
    const at::Tensor x = torch::cat(parts);
    (sum_of(net(x)) / std::max<int64_t>(1, x.size(0))).backward();
    torch::nn::utils::clip_grad_norm_(net->parameters(), kMaxNorm);
    optimizer->step();
    optimizer->zero_grad();
  }
  return ddp::values(*net);
}

BackwardOptions options_of(Way way, int64_t rows) {
  if (way == Way::kMean) return {.weight = rows};
  if (way == Way::kSum) return {.num_items = rows};
  return {.num_items = torch::tensor(rows)};
}

Tensors on_rank(const Training& run, const Rank& rank) {
  Accelerator accelerator(rank.options(
      {.gradient_accumulation_plugin =
           accelerate::GradientAccumulationPlugin{.num_steps = run.steps, .sync_each_batch = run.each_batch},
       .strategy = run.ddp}));
  Mlp net(1 + static_cast<double>(rank.rank()));
  const std::shared_ptr<torch::optim::Optimizer> stock = optimizer_of(run, net->parameters());
  auto [model, optimizer] = accelerator.prepare(net, stock);
  for (int64_t window = 0; window < run.windows; ++window) {
    for (int64_t step = 0; step < run.steps; ++step) {
      const auto guard = accelerator.accumulate(model);
      const at::Tensor x = run.batch(window, step, rank.rank());
      at::Tensor loss = sum_of(model(x));
      if (run.way == Way::kMean) loss = loss / x.size(0);
      accelerator.backward(loss, options_of(run.way, x.size(0)));
      accelerator.clip_grad_norm_(model, kMaxNorm);
      optimizer.step();
      optimizer.zero_grad();
    }
  }
  return ddp::values(*net);
}

void expect_one_batch(const Training& run) {
  const Tensors expected = in_one_batch(run);
  const auto results = ddp::on_ranks<Tensors>(run.ranks, [&](const Rank& rank) { return on_rank(run, rank); });
  for (const Tensors& result : results) {
    EXPECT_LT(ddp::distance(result, expected), ddp::kRounding)
        << run.ranks << " ranks, " << run.steps << " micro-steps";
    EXPECT_TRUE(ddp::equal(result, results.front())) << "all ranks hold the same";
  }
}

/// Rows that differ everywhere, some of them 0 where a sum allows it.
std::vector<int64_t> ragged(const Training& run, int64_t least) {
  std::vector<int64_t> rows(static_cast<size_t>(run.ranks * run.steps * run.windows));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = least + static_cast<int64_t>((i * i + 3 * i) % 7);
  return rows;
}

class LossWeightsBy : public testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(LossWeightsBy, AreThoseOfOneBatchOfEverything) {
  const auto [ranks, steps] = GetParam();
  for (const Way way : {Way::kSum, Way::kSumOnDevice, Way::kMean}) {
    for (const bool adam : {false, true}) {
      Training run{.ranks = ranks, .steps = steps, .windows = 3, .way = way, .adam = adam};
      run.rows = ragged(run, way == Way::kMean ? 1 : 0);
      expect_one_batch(run);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(RanksAndSteps, LossWeightsBy,
                         testing::Combine(testing::Values(1, 2, 4), testing::Values(1, 2, 4, 8)), [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "by" +
                                  std::to_string(std::get<1>(info.param));
                         });

// Sums of up to a hundred float64 terms of size one in another order, through at most four updates.
RC_GTEST_PROP(LossWeightsProperty, TheUpdateIsThatOfOneBatch, ()) {
  Training run{.ranks = *rc::gen::element<int64_t>(1, 2, 3, 4),
               .steps = *rc::gen::inRange<int64_t>(1, 9),
               .windows = *rc::gen::inRange<int64_t>(1, 5),
               .way = *rc::gen::element(Way::kSum, Way::kSumOnDevice, Way::kMean),
               .each_batch = *rc::gen::arbitrary<bool>(),
               .adam = *rc::gen::arbitrary<bool>()};
  run.ddp = {.bucket_cap_mb = *rc::gen::element(25.0, 1e-6, 1e-4),
             .find_unused_parameters = *rc::gen::arbitrary<bool>(),
             .gradient_as_bucket_view = *rc::gen::arbitrary<bool>()};
  const auto count = static_cast<size_t>(run.ranks * run.steps * run.windows);
  run.rows =
      *rc::gen::container<std::vector<int64_t>>(count, rc::gen::inRange<int64_t>(run.way == Way::kMean ? 1 : 0, 8));
  const Tensors expected = in_one_batch(run);
  const auto results = ddp::on_ranks<Tensors>(run.ranks, [&](const Rank& rank) { return on_rank(run, rank); });
  for (const Tensors& result : results) {
    RC_ASSERT(ddp::distance(result, expected) < 1e-12);
    RC_ASSERT(ddp::equal(result, results.front()));
  }
}

/// The gradient of sum over all `batches` divided by their rows.
Tensors mean_gradient(const std::vector<at::Tensor>& batches) {
  Mlp net(1);
  const at::Tensor x = torch::cat(batches);
  (sum_of(net(x)) / x.size(0)).backward();
  return ddp::gradients(*net);
}

TEST(LossWeights, SeveralBackwardsInOneMicroStepAddUp) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    auto model = accelerator.prepare(Mlp(1));
    std::vector<at::Tensor> all;
    for (int64_t step = 0; step < 2; ++step) {
      const auto window = accelerator.accumulate(model);
      for (int64_t part = 0; part < 2; ++part) {
        for (int64_t other = 0; other < 2; ++other) {
          all.push_back(ddp::inputs(other, 2 * step + part, 1 + other + 2 * part + step));
        }
        const at::Tensor x = all[all.size() - 2 + static_cast<size_t>(rank.rank())];
        accelerator.backward(sum_of(model(x)), {.num_items = x.size(0)});
        if (step == 0) continue;
        // After each of them the gradients are the mean over what has come so far.
        EXPECT_LT(ddp::distance(ddp::gradients(*model), mean_gradient(all)), ddp::kRounding) << part;
      }
    }
  });
}

TEST(LossWeights, UnderNoSyncTheyAreTheProcesssOwnAndComeTogetherAfterwards) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    const auto batch = [](int64_t of, int64_t step) { return ddp::inputs(of, step, 2 + 3 * of + step); };
    {
      const auto local = accelerator.no_sync(model);
      const at::Tensor x = batch(rank.rank(), 0);
      accelerator.backward(sum_of(model(x)), {.num_items = x.size(0)});
    }
    EXPECT_LT(ddp::distance(ddp::gradients(*model), mean_gradient({batch(rank.rank(), 0)})), ddp::kRounding);
    const at::Tensor x = batch(rank.rank(), 1);
    accelerator.backward(sum_of(model(x)), {.num_items = x.size(0)});
    EXPECT_LT(
        ddp::distance(ddp::gradients(*model), mean_gradient({batch(0, 0), batch(1, 0), batch(0, 1), batch(1, 1)})),
        ddp::kRounding);
  });
}

TEST(LossWeights, EachModelCountsTheLossesThatReachIt) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto [first, second] = accelerator.prepare(Mlp(1), Mlp(1));
    const auto window = accelerator.accumulate(first, second);
    const at::Tensor x = ddp::inputs(rank.rank(), 0, 2 + rank.rank());
    const at::Tensor y = ddp::inputs(rank.rank(), 1, 4 - rank.rank());
    accelerator.backward(sum_of(first(x)), {.num_items = x.size(0)});
    accelerator.backward(sum_of(second(y)), {.weight = 1});
    EXPECT_LT(ddp::distance(ddp::gradients(*first), mean_gradient({ddp::inputs(0, 0, 2), ddp::inputs(1, 0, 3)})),
              ddp::kRounding);
    Mlp net(1);
    ((sum_of(net(ddp::inputs(0, 1, 4))) + sum_of(net(ddp::inputs(1, 1, 3)))) / 2).backward();
    EXPECT_LT(ddp::distance(ddp::gradients(*second), ddp::gradients(*net)), ddp::kRounding);
  });
}

TEST(LossWeights, AWindowWithoutAnyItemHasZeroGradients) {
  for (const int64_t ranks : {1, 2}) {
    ddp::on_ranks(ranks, [](const Rank& rank) {
      Accelerator accelerator(rank.options());
      auto model = accelerator.prepare(Mlp(1));
      const at::Tensor x = torch::zeros({0, 3}, at::kDouble);
      accelerator.backward(sum_of(model(x)), {.num_items = 0});
      for (const at::Tensor& gradient : ddp::gradients(*model)) EXPECT_EQ(gradient.abs().max().item<double>(), 0.0);
    });
  }
}

// A parameter of two prepared models is divided once.
TEST(LossWeights, ASharedParameterIsDividedOnce) {
  Accelerator accelerator;
  Mlp net(1);
  torch::nn::Sequential around(net);
  auto [whole, part] = accelerator.prepare(around, net);
  const at::Tensor x = ddp::inputs(0, 0, 5);
  accelerator.backward(sum_of(part(x)), {.num_items = 5});
  EXPECT_LT(ddp::distance(ddp::gradients(*net), mean_gradient({x})), ddp::kRounding);
}

// Nothing of theirs is averaged, so that no process waits for another.
TEST(LossWeights, UnderNoSyncTheProcessesCountAsManyLossesAsTheyLike) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    std::vector<at::Tensor> all;
    for (int64_t of = 0; of < 2; ++of) {
      const auto local = accelerator.no_sync(model);
      for (int64_t step = 0; step < 1 + 2 * of; ++step) {
        all.push_back(ddp::inputs(of, step, 2 + 3 * of + step));
        if (of != rank.rank()) continue;
        accelerator.backward(sum_of(model(all.back())), {.num_items = all.back().size(0)});
      }
    }
    for (int64_t of = 0; of < 2; ++of) all.push_back(ddp::inputs(of, 7, 3 + of));
    const at::Tensor x = all[all.size() - 2 + static_cast<size_t>(rank.rank())];
    accelerator.backward(sum_of(model(x)), {.num_items = x.size(0)});
    EXPECT_LT(ddp::distance(ddp::gradients(*model), mean_gradient(all)), ddp::kRounding);
  });
}

// A teacher or a metric's network, which one process alone needs to have.
TEST(LossWeights, AModelForEvaluationOnSomeProcessesChangesNothing) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    if (rank.rank() == 0) accelerator.prepare_model(Mlp(2), {.evaluation_mode = true});
    auto model = accelerator.prepare(Mlp(1));
    std::vector<at::Tensor> all;
    for (int64_t of = 0; of < 2; ++of) all.push_back(ddp::inputs(of, 0, 2 + of));
    const at::Tensor& x = all[static_cast<size_t>(rank.rank())];
    accelerator.backward(sum_of(model(x)), {.num_items = x.size(0)});
    EXPECT_LT(ddp::distance(ddp::gradients(*model), mean_gradient(all)), ddp::kRounding);
  });
}

/// Two models, of which losses reach the first alone, the second alone, or both: each is divided by its own count.
RC_GTEST_PROP(LossWeightsOfModels, EachIsTheMeanOverWhatItsOwnLossesCount, ()) {
  const int64_t ranks = *rc::gen::inRange<int64_t>(1, 4);
  const int64_t steps = *rc::gen::inRange<int64_t>(1, 4);
  const auto count = static_cast<size_t>(ranks * steps);
  const auto rows = *rc::gen::container<std::vector<int64_t>>(count, rc::gen::inRange<int64_t>(1, 5));
  const auto reach = *rc::gen::container<std::vector<int>>(static_cast<size_t>(steps), rc::gen::inRange(1, 4));
  const auto at = [&](int64_t step, int64_t rank) { return static_cast<size_t>(step * ranks + rank); };
  const auto loss_of = [](auto& first, auto& second, const at::Tensor& x, int which) {
    at::Tensor loss = torch::zeros({}, at::kDouble);
    if (which & 1) loss = loss + sum_of(first(x));
    if (which & 2) loss = loss + sum_of(second(x));
    return loss;
  };
  // LibTorch alone, the whole window in one graph.
  Tensors expected;
  {
    Mlp first(1), second(2);
    double counted[2] = {};
    at::Tensor sums[2] = {torch::zeros({}, at::kDouble), torch::zeros({}, at::kDouble)};
    for (int64_t step = 0; step < steps; ++step) {
      const int which = reach[static_cast<size_t>(step)];
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const at::Tensor x = ddp::inputs(rank, step, rows[at(step, rank)]);
        for (const int model : {0, 1}) {
          if (!(which & (1 << model))) continue;
          counted[model] += static_cast<double>(x.size(0));
          sums[model] = sums[model] + sum_of(model == 0 ? first(x) : second(x));
        }
      }
    }
    for (const int model : {0, 1}) {
      if (counted[model] > 0) (sums[model] / counted[model]).backward();
    }
    expected = ddp::gradients(*first);
    for (at::Tensor& gradient : ddp::gradients(*second)) expected.push_back(gradient);
  }
  // At the end of the window every model is reached, as its ranks have to average.
  if (ranks > 1 && reach.back() != 3) RC_DISCARD("a model would not be averaged");
  ddp::on_ranks(ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = steps}));
    auto [first, second] = accelerator.prepare(Mlp(1), Mlp(2));
    for (int64_t step = 0; step < steps; ++step) {
      const auto window = accelerator.accumulate(first, second);
      const at::Tensor x = ddp::inputs(rank.rank(), step, rows[at(step, rank.rank())]);
      accelerator.backward(loss_of(first, second, x, reach[static_cast<size_t>(step)]),
                           {.num_items = static_cast<double>(x.size(0))});
    }
    Tensors got = ddp::gradients(*first);
    for (at::Tensor& gradient : ddp::gradients(*second)) got.push_back(gradient);
    EXPECT_LT(ddp::distance(got, expected), 1e-11);
  });
}

}  // namespace
