// When gradients and buffers are exchanged: windows, no_sync, trigger_sync_in_backward, several models, evaluation.
#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Ddp;
using ddp::inputs;
using ddp::mean_square;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;

/// The gradients of the mean over `ranks` ranks of the losses of `steps`, of one rank if `rank` is given.
Tensors reference(int64_t ranks, const std::vector<int64_t>& steps, std::optional<int64_t> only = {}) {
  Mlp net(1);
  for (const int64_t step : steps) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      if (only && rank != *only) continue;
      (mean_square(net(inputs(rank, step))) / (only ? 1.0 : static_cast<double>(ranks))).backward();
    }
  }
  return ddp::gradients(*net);
}

void expect_near(const Tensors& found, const Tensors& expected, const char* what) {
  EXPECT_LT(ddp::distance(found, expected), ddp::kRounding) << what;
}

// Source: `test_sync.py`, test_distributed_sync.
TEST(NoSync, KeepsGradientsLocalUntilAPassOutside) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    {
      const auto local = accelerator.no_sync(model);
      accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
      expect_near(ddp::gradients(*model), reference(2, {0}, rank.rank()), "local");
      accelerator.backward(mean_square(model(inputs(rank.rank(), 1))));
      expect_near(ddp::gradients(*model), reference(2, {0, 1}, rank.rank()), "local, added");
    }
    accelerator.backward(mean_square(model(inputs(rank.rank(), 2))));
    expect_near(ddp::gradients(*model), reference(2, {0, 1, 2}), "averaged with what had come together");
  });
}

// Source: `test_sync.py`, test_distributed_sync_multiple_fwd.
TEST(NoSync, AForwardInsideStaysLocalAlsoWhenItsBackwardIsOutside) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    for (int round = 0; round < 2; ++round) {
      std::vector<at::Tensor> losses;
      {
        const auto local = accelerator.no_sync(model);
        for (int64_t step = 0; step < 3; ++step) losses.push_back(mean_square(model(inputs(rank.rank(), step))));
      }
      accelerator.backward(losses[0]);
      expect_near(ddp::gradients(*model), reference(2, {0}, rank.rank()), "first");
      accelerator.backward(losses[1]);
      expect_near(ddp::gradients(*model), reference(2, {0, 1}, rank.rank()), "second");
      {
        const auto now = accelerator.trigger_sync_in_backward(model);
        accelerator.backward(losses[2]);
      }
      expect_near(ddp::gradients(*model), reference(2, {0, 1, 2}), "third, triggered");
      model->zero_grad();
      accelerator.backward(mean_square(model(inputs(rank.rank(), 3))));
      expect_near(ddp::gradients(*model), reference(2, {3}), "a forward outside");
      model->zero_grad();
    }
  });
}

TEST(NoSync, AForwardInsideThatIsNeverUsedChangesNothing) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    auto model = accelerator.prepare(net);
    {
      const auto local = accelerator.no_sync(model);
      model(inputs(0, 9));
    }
    accelerator.backward(mean_square(net(inputs(rank.rank(), 0))));  // past the handle
    expect_near(ddp::gradients(*model), reference(2, {0}), "averaged");
  });
}

TEST(NoSync, IsForOneModel) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto [first, second] = accelerator.prepare(Mlp(1), Mlp(1));
    const auto local = accelerator.no_sync(first);
    accelerator.backward(mean_square(first(inputs(rank.rank(), 0))) + mean_square(second(inputs(rank.rank(), 0))));
    expect_near(ddp::gradients(*first), reference(2, {0}, rank.rank()), "local");
    expect_near(ddp::gradients(*second), reference(2, {0}), "averaged");
  });
}

TEST(NoSync, StepsOfEachProcessOnItsOwnAreAllowed) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    const auto local = accelerator.no_sync(model);
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    EXPECT_NO_THROW(std::get<1>(prepared).step());
    Mlp alone(1);
    torch::optim::SGD own(alone->parameters(), 0.1);
    mean_square(alone(inputs(rank.rank(), 0))).backward();
    own.step();
    expect_near(ddp::values(*net), ddp::values(*alone), "a step alone");
  });
}

TEST(NoSync, IsNothingInOneProcess) {
  Accelerator accelerator({.world = accelerate::World{}});
  auto model = accelerator.prepare(Mlp(1));
  {
    const auto local = accelerator.no_sync(model);
    accelerator.backward(mean_square(model(inputs(0, 0))));
  }
  const auto now = accelerator.trigger_sync_in_backward(model);
  accelerator.backward(mean_square(model(inputs(0, 1))));
  expect_near(ddp::gradients(*model), reference(1, {0, 1}), "added");
}

TEST(NoSync, RefusesModelsOfOthersAndTheEnd) {
  Accelerator accelerator({.world = accelerate::World{}}), other({.world = accelerate::World{}});
  auto model = accelerator.prepare(Mlp(1));
  EXPECT_THAT([&] { (void)other.no_sync(model); }, ThrowsError<UsageError>({.place = "no_sync", .what = "another"}));
  EXPECT_THAT([&] { (void)other.trigger_sync_in_backward(model); },
              ThrowsError<UsageError>({.place = "trigger_sync_in_backward", .what = "another"}));
  accelerator.end_training();
  EXPECT_THAT([&] { (void)accelerator.no_sync(model); }, ThrowsError<UsageError>({.place = "no_sync"}));
}

TEST(Windows, ReduceOnceAtTheirEnd) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 3}));
    auto model = accelerator.prepare(Mlp(1));
    for (int64_t step = 0; step < 6; ++step) {
      const auto window = accelerator.accumulate(model);
      accelerator.backward(3 * mean_square(model(inputs(rank.rank(), step))));
      std::vector<int64_t> steps(static_cast<size_t>(step % 3 + 1));
      std::iota(steps.begin(), steps.end(), step / 3 * 3);
      const bool ends = step % 3 == 2;
      expect_near(ddp::gradients(*model), ends ? reference(2, steps) : reference(2, steps, rank.rank()),
                  "in the window");
      if (ends) model->zero_grad();
    }
  });
}

// As in the original: what is not named is averaged every time, with the same sums in the end.
TEST(Windows, LeaveModelsAloneThatTheyDoNotName) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    auto [first, second] = accelerator.prepare(Mlp(1), Mlp(1));
    for (int64_t step = 0; step < 2; ++step) {
      const auto window = accelerator.accumulate(first);
      const auto x = inputs(rank.rank(), step);
      accelerator.backward(2 * (mean_square(first(x)) + mean_square(second(x))));
      if (step > 0) continue;
      expect_near(ddp::gradients(*first), reference(2, {0}, rank.rank()), "named");
      expect_near(ddp::gradients(*second), reference(2, {0}), "not named");
    }
    expect_near(ddp::gradients(*first), reference(2, {0, 1}), "named, at the end");
    expect_near(ddp::gradients(*second), reference(2, {0, 1}), "not named, at the end");
  });
}

TEST(NoSync, ItsGuardMayEndBeforeOneThatBeganLater) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    auto local = std::make_optional(accelerator.no_sync(model));
    const auto synced = accelerator.trigger_sync_in_backward(model);
    local.reset();
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    expect_near(ddp::gradients(*model), reference(2, {0}), "the guard that is left says so");
  });
}

/// Counts its forwards in a buffer, which starts with the rank.
struct CounterImpl : torch::nn::Module {
  explicit CounterImpl(int64_t rank) {
    weight = register_parameter("weight", torch::ones({1}, at::kDouble));
    count = register_buffer("count", torch::full({1}, 100 * rank, at::kLong));
  }
  at::Tensor forward(const at::Tensor& x) {
    count += 1;
    return (x * weight).sum();
  }
  int64_t counted() const { return count.item<int64_t>(); }
  at::Tensor weight, count;
};
TORCH_MODULE(Counter);

// The original's order: a forward that is going to be reduced has the next one start from rank 0's buffers, also one
// for evaluation; a forward without gradients or under no_sync has the next one keep its own.
TEST(Buffers, FollowRankZeroWhereTheOriginalSaysSo) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Counter net(rank.rank());
    auto model = accelerator.prepare(net);
    const auto x = torch::ones({1}, at::kDouble);
    const int64_t far = 1000 * rank.rank();
    EXPECT_EQ(net->counted(), 0) << "from rank 0 at prepare()";
    const auto drift = [&] { net->count += far; };
    const auto train = [&] { accelerator.backward(model(x)); };
    const auto evaluate = [&] {
      const torch::NoGradGuard no_grad;
      model(x);
    };
    train();
    drift();
    train();
    EXPECT_EQ(net->counted(), 2) << "training follows training";
    drift();
    evaluate();
    EXPECT_EQ(net->counted(), 3) << "evaluation follows training";
    drift();
    evaluate();
    EXPECT_EQ(net->counted(), 4 + far) << "evaluation after evaluation is not";
    train();
    EXPECT_EQ(net->counted(), 5 + far) << "nor training after it";
    train();
    EXPECT_EQ(net->counted(), 6);
    {
      const auto local = accelerator.no_sync(model);
      drift();
      train();
      EXPECT_EQ(net->counted(), 7) << "the first under no_sync still is";
      drift();
      train();
      EXPECT_EQ(net->counted(), 8 + far) << "the second is not";
    }
    accelerator.end_training();
    evaluate();
    EXPECT_EQ(net->counted(), 9 + far) << "a rank goes on alone after the end";
  });
}

TEST(Buffers, StayTheRanksOwnWhenAsked) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.broadcast_buffers = false}}));
    Counter net(rank.rank());
    auto model = accelerator.prepare(net);
    for (int step = 0; step < 2; ++step) {
      net->count += 1000 * rank.rank();
      accelerator.backward(model(torch::ones({1}, at::kDouble)));
    }
    EXPECT_EQ(net->counted() % 1000, rank.rank() * 100 + 2) << "not even at prepare()";
  });
}

}  // namespace
