// What goes wrong on one rank: every rank hears of it, nobody waits for ever, and training can go on.
#include <mutex>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::ConfigError;
using accelerate::Error;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Ddp;
using ddp::inputs;
using ddp::mean_square;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;
using ddp::TwoHeads;

/// `module` is prepared on every rank, and every rank must refuse it with what `said` asks for.
void expect_refusal(int64_t ranks, const std::function<void(Accelerator&, int64_t rank)>& prepare,
                    const accelerate::ErrorText& said) {
  ddp::on_ranks(ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    EXPECT_THAT(ddp::once([&] { prepare(accelerator, rank.rank()); }), ThrowsError<UsageError>(said)) << rank.rank();
  });
}

TEST(DdpModels, OtherShapes) {
  expect_refusal(4,
                 [](Accelerator& accelerator, int64_t rank) {
                   torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::Linear(3, rank == 2 ? 5 : 2));
                   accelerator.prepare(net);
                 },
                 {.place = "prepare",
                  .what = "Sequential",
                  .got = "\"1.weight\" is Float [2, 3], trainable on rank 0 and Float [5, 3], trainable on rank 2",
                  .expected = "same",
                  .remedy = "same configuration"});
}

TEST(DdpModels, OtherDtypes) {
  expect_refusal(
      2,
      [](Accelerator& accelerator, int64_t rank) { accelerator.prepare(Mlp(1, rank == 1 ? at::kFloat : at::kDouble)); },
      {.place = "prepare", .got = "\"hidden.weight\" is Double [5, 3], trainable on rank 0 and Float [5, 3]"});
}

TEST(DdpModels, OtherNumbersOfParameters) {
  expect_refusal(
      3,
      [](Accelerator& accelerator, int64_t rank) {
        torch::nn::Sequential net(torch::nn::Linear(2, 2));
        if (rank == 1) net->push_back(torch::nn::Linear(2, 2));
        accelerator.prepare(net);
      },
      {.place = "prepare", .got = "2 parameters and buffers on rank 0 and 4 on rank 1, which has \"1.weight\""});
}

TEST(DdpModels, OtherNames) {
  expect_refusal(2,
                 [](Accelerator& accelerator, int64_t rank) {
                   const auto net = std::make_shared<torch::nn::Module>();
                   net->register_parameter(rank == 0 ? "scale" : "gain", torch::ones({2}));
                   accelerator.prepare(net);
                 },
                 {.place = "prepare", .got = "tensor 0 is \"scale\" on rank 0 and \"gain\" on rank 1"});
}

TEST(DdpModels, OtherBuffersAndOtherStrides) {
  expect_refusal(2,
                 [](Accelerator& accelerator, int64_t rank) {
                   const auto net = std::make_shared<torch::nn::Module>();
                   net->register_parameter("weight", rank == 0 ? torch::ones({2, 3}) : torch::ones({3, 2}).t());
                   accelerator.prepare(net);
                 },
                 {.place = "prepare", .got = "Float [2, 3] with strides [1, 2], trainable on rank 1"});
  expect_refusal(2,
                 [](Accelerator& accelerator, int64_t rank) {
                   const auto net = std::make_shared<torch::nn::Module>();
                   net->register_parameter("weight", torch::ones({2}));
                   net->register_buffer("mean", torch::ones({2 + rank}));
                   accelerator.prepare(net);
                 },
                 {.place = "prepare", .got = "\"mean\" is Float [2] on rank 0 and Float [3] on rank 1"});
}

TEST(DdpModels, FrozenOnOneRank) {
  expect_refusal(
      2,
      [](Accelerator& accelerator, int64_t rank) {
        Mlp net(1);
        net->out->bias.set_requires_grad(rank == 0);
        accelerator.prepare(net);
      },
      {.place = "prepare", .got = "\"out.bias\" is Double [2], trainable on rank 0 and Double [2] on rank 1"});
}

TEST(DdpModels, OtherOptions) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.bucket_cap_mb = rank.rank() == 0 ? 25.0 : 1.0}}));
    EXPECT_THAT(ddp::once([&] { accelerator.prepare(Mlp(1)); }),
                ThrowsError<UsageError>({.place = "prepare", .got = ".bucket_cap_mb = 1,"}));
  });
}

TEST(DdpModels, EveryRankStartsFromRankZero) {
  const auto results = ddp::on_ranks<Tensors>(3, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1 + 7 * rank.rank());
    net->register_buffer("count", torch::full({2}, rank.rank(), at::kLong));
    accelerator.prepare(net);
    Tensors all = ddp::values(*net);
    all.push_back(net->named_buffers()["count"].clone());
    return all;
  });
  Tensors expected = ddp::values(*Mlp(1));
  expected.push_back(torch::zeros({2}, at::kLong));
  for (const Tensors& result : results) EXPECT_TRUE(ddp::equal(result, expected));
}

TEST(DdpModels, AModelWithNothingToTrainIsLeftAloneAsInTheOriginal) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1 + rank.rank());
    const auto before = ddp::values(*net);
    for (at::Tensor& parameter : net->parameters()) parameter.set_requires_grad(false);
    auto model = accelerator.prepare(net);
    EXPECT_TRUE(ddp::equal(ddp::values(*net), before));
    net->out->weight.set_requires_grad(true);
    EXPECT_THAT(ddp::once([&] { accelerator.backward(mean_square(model(inputs(0, 0)))); }),
                ThrowsError<UsageError>({.place = "backward", .what = "Mlp", .got = "\"out.weight\""}));
  });
}

class UnusedParameters : public testing::TestWithParam<std::vector<int64_t>> {};

// The ranks in the parameter do not use the second head; all ranks have to hear of it, also those that did.
TEST_P(UnusedParameters, AreNamedOnEveryRankAndTrainingGoesOn) {
  constexpr int64_t kRanks = 3;
  const std::vector<int64_t>& lacking = GetParam();
  TwoHeads reference(1);
  for (int64_t rank = 0; rank < kRanks; ++rank)
    (mean_square(reference(inputs(rank, 1), true, true)) / static_cast<double>(kRanks)).backward();

  const auto results = ddp::on_ranks<Tensors>(kRanks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    TwoHeads net(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    for (int attempt = 0; attempt < 3; ++attempt) {
      const bool uses = std::find(lacking.begin(), lacking.end(), rank.rank()) == lacking.end();
      std::string got;
      for (const int64_t other : lacking) {
        got += (got.empty() ? "" : "; ") + std::string("no gradient for \"second.weight\", \"second.bias\" on rank ") +
               std::to_string(other);
      }
      EXPECT_THAT(ddp::once([&] { accelerator.backward(mean_square(model(inputs(rank.rank(), 0), true, uses))); }),
                  ThrowsError<UsageError>({.place = "backward",
                                           .what = "TwoHeads",
                                           .got = got,
                                           .expected = "every trainable parameter",
                                           .remedy = "find_unused_parameters = true"}));
      optimizer.zero_grad();
    }
    accelerator.backward(mean_square(model(inputs(rank.rank(), 1), true, true)));
    optimizer.zero_grad();
    accelerator.backward(mean_square(model(inputs(rank.rank(), 1), true, true)));
    return ddp::gradients(*net);
  });
  for (const Tensors& result : results) EXPECT_LT(ddp::distance(result, ddp::gradients(*reference)), ddp::kRounding);
}

INSTANTIATE_TEST_SUITE_P(On, UnusedParameters,
                         testing::Values(std::vector<int64_t>{0}, std::vector<int64_t>{2}, std::vector<int64_t>{0, 1},
                                         std::vector<int64_t>{0, 1, 2}),
                         [](const auto& info) {
                           std::string name = "Rank";
                           for (const int64_t rank : info.param) name += std::to_string(rank);
                           return name;
                         });

// NaN is how a rank says that it has no gradient; a model that has come to NaN by itself is not an error.
TEST(DdpNumbers, NanIsReducedLikeAnyNumber) {
  const auto results = ddp::on_ranks<Tensors>(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    for (int step = 0; step < 3; ++step) {
      at::Tensor x = inputs(rank.rank(), step);
      if (rank.rank() == 1) x.fill_(std::nan(""));
      accelerator.backward(mean_square(model(x)));
    }
    return ddp::gradients(*model);
  });
  for (const Tensors& result : results) {
    for (const at::Tensor& gradient : result) EXPECT_TRUE(gradient.isnan().all().item<bool>());
  }
}

/// Passes gradients on, or throws when it is told to.
struct Tripwire : torch::autograd::Function<Tripwire> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, bool trips) {
    context->saved_data["trips"] = trips;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    if (context->saved_data["trips"].toBool()) throw std::runtime_error("tripped");
    return {gradients[0], at::Tensor()};
  }
};

/// Two layers with the wire between, so that the second one's gradients are there when it trips.
struct WiredImpl : torch::nn::Module {
  WiredImpl() {
    first = register_module("first", torch::nn::Linear(3, 4));
    second = register_module("second", torch::nn::Linear(4, 2));
    ddp::fill(*this, 1);
  }
  at::Tensor forward(const at::Tensor& x, bool trips_early, bool trips_late) {
    const at::Tensor h = Tripwire::apply(torch::tanh(first(x)), trips_late);
    return Tripwire::apply(second(h), trips_early);
  }
  torch::nn::Linear first{nullptr}, second{nullptr};
};
TORCH_MODULE(Wired);

struct Trip {
  std::vector<int64_t> ranks;
  bool early = false;  ///< before any gradient is there
  double bucket_cap_mb = 25;
};
class ExceptionInBackward : public testing::TestWithParam<Trip> {};

TEST_P(ExceptionInBackward, EndsOnEveryRankAndTrainingGoesOn) {
  constexpr int64_t kRanks = 2;
  const Trip& trip = GetParam();
  Wired reference;
  for (int64_t rank = 0; rank < kRanks; ++rank)
    (mean_square(reference(inputs(rank, 5), false, false)) / static_cast<double>(kRanks)).backward();
  const auto results = ddp::on_ranks<Tensors>(kRanks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.bucket_cap_mb = trip.bucket_cap_mb}}));
    Wired net;
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    for (int64_t step = 0; step < 5; ++step) {
      const bool trips = step % 2 == 1;
      const bool here = trips && std::find(trip.ranks.begin(), trip.ranks.end(), rank.rank()) != trip.ranks.end();
      const at::Tensor loss = mean_square(model(inputs(rank.rank(), step), here && trip.early, here && !trip.early));
      if (here) {
        EXPECT_THAT(ddp::once([&] { accelerator.backward(loss); }),
                    testing::ThrowsMessage<std::runtime_error>(testing::HasSubstr("tripped")));
      } else if (trips) {
        EXPECT_THAT(ddp::once([&] { accelerator.backward(loss); }),
                    ThrowsError<UsageError>(
                        {.place = "backward",
                         .what = "Wired",
                         .got = "an exception in the backward pass on rank " + std::to_string(trip.ranks.front())}));
      } else {
        accelerator.backward(loss);
      }
      optimizer.zero_grad();
    }
    accelerator.backward(mean_square(model(inputs(rank.rank(), 5), false, false)));
    return ddp::gradients(*net);
  });
  for (const Tensors& result : results) EXPECT_LT(ddp::distance(result, ddp::gradients(*reference)), ddp::kRounding);
}

INSTANTIATE_TEST_SUITE_P(On, ExceptionInBackward,
                         testing::Values(Trip{{0, 1}, false}, Trip{{0, 1}, true}, Trip{{0}, false}, Trip{{1}, true},
                                         Trip{{0, 1}, false, 1e-6}, Trip{{1}, false, 1e-6}, Trip{{0}, true, 1e-6}),
                         [](const auto& info) {
                           std::string name = info.param.early ? "EarlyOnRank" : "LateOnRank";
                           for (const int64_t rank : info.param.ranks) name += std::to_string(rank);
                           return name + (info.param.bucket_cap_mb < 1 ? "SmallBuckets" : "");
                         });

TEST(ExceptionInForward, LeavesNothingBehind) {
  const auto results = ddp::on_ranks<Tensors>(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    EXPECT_ANY_THROW(model(torch::zeros({2, 7}, at::kDouble)));
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    return ddp::gradients(*model);
  });
  Mlp reference(1);
  for (int64_t rank = 0; rank < 2; ++rank) (mean_square(reference(inputs(rank, 0))) / 2).backward();
  for (const Tensors& result : results) EXPECT_LT(ddp::distance(result, ddp::gradients(*reference)), ddp::kRounding);
}

TEST(DirectBackward, IsRefusedBeforeTheUpdate) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    const auto before = ddp::values(*net);
    for (int step = 0; step < 2; ++step) {
      mean_square(model(inputs(rank.rank(), step))).backward();
      EXPECT_THAT(ddp::once([&] { optimizer.step(); }),
                  ThrowsError<UsageError>({.place = "optimizer.step",
                                           .what = "Mlp",
                                           .got = "\"hidden.weight\", \"hidden.bias\", \"out.weight\", \"out.bias\"",
                                           .expected = "accelerator.backward(loss)",
                                           .remedy = "no_sync"}));
      EXPECT_TRUE(ddp::equal(ddp::values(*net), before));
      optimizer.zero_grad();
      accelerator.backward(mean_square(model(inputs(rank.rank(), step))));
      EXPECT_NO_THROW(optimizer.step());
      optimizer.zero_grad();
      torch::NoGradGuard no_grad;
      for (size_t i = 0; i < before.size(); ++i) net->parameters()[i].copy_(before[i]);
    }
  });
}

// What it added is averaged with the rest: the update is right.
TEST(DirectBackward, BeforeAPassOfTheAcceleratorIsAveragedWithIt) {
  const auto results = ddp::on_ranks<Tensors>(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    mean_square(model(inputs(rank.rank(), 0))).backward();
    accelerator.backward(mean_square(model(inputs(rank.rank(), 1))));
    EXPECT_NO_THROW(optimizer.step());
    return ddp::gradients(*net);
  });
  Mlp reference(1);
  for (int64_t rank = 0; rank < 2; ++rank)
    ((mean_square(reference(inputs(rank, 0))) + mean_square(reference(inputs(rank, 1)))) / 2).backward();
  for (const Tensors& result : results) EXPECT_LT(ddp::distance(result, ddp::gradients(*reference)), ddp::kRounding);
}

TEST(DirectBackward, WithoutGradientsLeftIsForgotten) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    mean_square(model(inputs(rank.rank(), 0))).backward();  // say, for the gradient of the input
    optimizer.zero_grad();
    EXPECT_NO_THROW(optimizer.step());
  });
}

// Applied, they would part the ranks without a word.
TEST(MicroSteps, ThatNoLossAveragesAreRefusedBeforeTheUpdate) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    Mlp first_net(1), second_net(2);
    auto [first, second, of_first, of_second] =
        accelerator.prepare(first_net, second_net, torch::optim::SGD(first_net->parameters(), 0.1),
                            torch::optim::SGD(second_net->parameters(), 0.1));
    const auto loss = [&, &first = first, &second = second](bool both) {
      const at::Tensor x = inputs(rank.rank(), 0);
      return both ? mean_square(first(x)) + mean_square(second(x)) : mean_square(first(x));
    };
    {
      const auto window = accelerator.accumulate(first, second);
      accelerator.backward(loss(true));
    }
    const Tensors before = ddp::values(*second);
    {
      const auto window = accelerator.accumulate(first, second);
      accelerator.backward(loss(false));
      of_first.step();
      const auto step = [&of_second = of_second] { of_second.step(); };
      EXPECT_THAT(step, ThrowsError<UsageError>({.place = "optimizer.step",
                                                 .what = "MlpImpl were not averaged over the processes",
                                                 .got = "micro-steps that stayed local, and no backward() since that "
                                                        "averages, for \"hidden.weight\"",
                                                 .expected = "reaches the model in the last micro-step",
                                                 .remedy = "accelerator.no_sync(model)"}));
      EXPECT_TRUE(ddp::equal(ddp::values(*second), before));
      accelerator.backward(loss(true));
      of_second.step();
    }
    EXPECT_FALSE(ddp::equal(ddp::values(*second), before));
    for (const bool last : {false, true}) {
      const auto window = accelerator.accumulate(first, second);
      of_first.zero_grad();
      of_second.zero_grad();
      accelerator.backward(loss(!last));
      if (!last) continue;
      of_second.zero_grad();
      EXPECT_NO_THROW(of_second.step()) << "nothing is left that could part them";
    }
    for (const bool last : {false, true}) {
      const auto window = accelerator.accumulate(first, second);
      const auto alone = accelerator.no_sync(second);
      accelerator.backward(loss(!last));
      EXPECT_NO_THROW(of_second.step()) << "asked for";
    }
  });
}

TEST(DdpFreezing, BetweenTheMicroStepsOfAWindowIsRefused) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    Mlp net(1);
    auto model = accelerator.prepare(net);
    {
      const auto window = accelerator.accumulate(model);
      accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    }
    net->out->bias.set_requires_grad(false);
    const auto window = accelerator.accumulate(model);
    EXPECT_THAT(ddp::once([&] { accelerator.backward(mean_square(model(inputs(rank.rank(), 0)))); }),
                ThrowsError<UsageError>({.place = "backward", .what = "Mlp", .got = "\"out.bias\""}));
  });
}

TEST(DdpFreezing, OnOneRankAloneIsRefusedOnAll) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    auto model = accelerator.prepare(net);
    net->out->bias.set_requires_grad(false);
    net->hidden->bias.set_requires_grad(rank.rank() == 0);
    EXPECT_THAT(ddp::once([&] { accelerator.backward(mean_square(model(inputs(rank.rank(), 0)))); }),
                ThrowsError<UsageError>({.place = "prepare", .what = "Mlp", .got = "\"hidden.bias\""}));
  });
}

struct OtherOptions {
  static constexpr const char* kStrategy = "ddp";
};

TEST(DdpOptions, AreCheckedWhereverTheyAreGiven) {
  for (const int64_t ranks : {1, 2}) {
    ddp::on_ranks(ranks, [&](const Rank& rank) {
      const auto with = [&](accelerate::StrategyChoice choice) {
        return [&rank, choice] {
          Accelerator accelerator(rank.options({.strategy = choice}));
          accelerator.prepare(Mlp(1));
        };
      };
      EXPECT_THAT(ddp::once(with(OtherOptions{})),
                  ThrowsError<ConfigError>({.place = "strategy", .expected = "accelerate::Ddp{...}"}));
      EXPECT_THAT(ddp::once(with(Ddp{.bucket_cap_mb = 0})),
                  ThrowsError<ConfigError>({.place = "strategy", .got = ".bucket_cap_mb = 0,"}));
      EXPECT_NO_THROW(with("ddp")());
    });
  }
}

TEST(DdpOptions, AreSaidToBeUnusedInOneProcess) {
  const Accelerator accelerator({.strategy = Ddp{.bucket_cap_mb = 1}, .world = accelerate::World{}});
  const accelerate::Field& field = accelerator.plan().at("strategy");
  EXPECT_EQ(field.value, "single");
  EXPECT_THAT(field.source, testing::HasSubstr("\"ddp\" is not used: one process"));
}

}  // namespace
