// Patterns of forward and backward passes that a hand-written loop may use: every one ends with the means over the
// ranks, or with an error that says why not.
#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::UsageError;
using ddp::Accelerator;
using ddp::Ddp;
using ddp::inputs;
using ddp::mean_square;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;
using ddp::TwoHeads;

/// The gradients that one process gets from the mean over the ranks of what `loss_of` says for each of them.
template <class Net>
Tensors expected_gradients(Net& net, int64_t ranks, const std::function<at::Tensor(int64_t rank)>& loss_of) {
  for (int64_t rank = 0; rank < ranks; ++rank) (loss_of(rank) / static_cast<double>(ranks)).backward();
  return ddp::gradients(*net);
}

class DdpPatterns : public testing::TestWithParam<int64_t> {
 protected:
  int64_t ranks() const { return GetParam(); }
  /// Every rank must come to the gradients `expected`, bit for bit the same ones.
  void expect_everywhere(const Tensors& expected, const std::function<Tensors(const Rank&)>& body) {
    const auto results = ddp::on_ranks<Tensors>(ranks(), body);
    for (const Tensors& result : results) {
      EXPECT_LT(ddp::distance(result, expected), ddp::kRounding);
      EXPECT_TRUE(ddp::equal(result, results.front()));
    }
  }
};

TEST_P(DdpPatterns, OneForwardOneBackward) {
  Mlp net(1);
  const auto expected =
      expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, 0))); });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1 + rank.rank()));
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, TwoForwardsThenTwoBackwards) {
  Mlp net(1);
  const auto expected = expected_gradients(net, ranks(), [&](int64_t rank) {
    return mean_square(net(inputs(rank, 0))) + mean_square(net(inputs(rank, 1)));
  });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    const auto first = mean_square(model(inputs(rank.rank(), 0)));
    const auto second = mean_square(model(inputs(rank.rank(), 1)));
    accelerator.backward(first);
    accelerator.backward(second);
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, TwoForwardsOneLoss) {
  Mlp net(1);
  const auto expected = expected_gradients(
      net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, 0)) * net(inputs(rank, 1))); });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0)) * model(inputs(rank.rank(), 1))));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, AForwardThatBypassesTheHandle) {
  Mlp net(1);
  const auto expected =
      expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, 0))); });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp own(1);
    auto model = accelerator.prepare(own);
    accelerator.backward(mean_square(own(inputs(rank.rank(), 0))));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, TwoModelsOneLoss) {
  Mlp first(1), second(5);
  const auto loss_of = [&](int64_t rank) { return mean_square(first(inputs(rank, 0)) + second(inputs(rank, 1))); };
  Tensors expected = expected_gradients(first, ranks(), loss_of);
  for (const at::Tensor& gradient : ddp::gradients(*second)) expected.push_back(gradient);
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto [a, b] = accelerator.prepare(Mlp(1), Mlp(5));
    accelerator.backward(mean_square(a(inputs(rank.rank(), 0)) + b(inputs(rank.rank(), 1))));
    Tensors all = ddp::gradients(*a);
    for (const at::Tensor& gradient : ddp::gradients(*b)) all.push_back(gradient);
    return all;
  });
}

TEST_P(DdpPatterns, TwoModelsTwoLossesInTurn) {
  Mlp first(1), second(5);
  Tensors expected =
      expected_gradients(first, ranks(), [&](int64_t rank) { return mean_square(first(inputs(rank, 0))); });
  for (const at::Tensor& gradient :
       expected_gradients(second, ranks(), [&](int64_t rank) { return mean_square(second(inputs(rank, 1))); }))
    expected.push_back(gradient);
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto [a, b] = accelerator.prepare(Mlp(1), Mlp(5));
    accelerator.backward(mean_square(a(inputs(rank.rank(), 0))));
    accelerator.backward(mean_square(b(inputs(rank.rank(), 1))));
    Tensors all = ddp::gradients(*a);
    for (const at::Tensor& gradient : ddp::gradients(*b)) all.push_back(gradient);
    return all;
  });
}

TEST_P(DdpPatterns, OneModelTwoLosses) {
  TwoHeads net(1);
  const auto expected = expected_gradients(net, ranks(), [&](int64_t rank) {
    return mean_square(net(inputs(rank, 0), true, false)) + mean_square(net(inputs(rank, 1), false, true));
  });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.find_unused_parameters = true}}));
    auto model = accelerator.prepare(TwoHeads(1));
    const auto first = mean_square(model(inputs(rank.rank(), 0), true, false));
    const auto second = mean_square(model(inputs(rank.rank(), 1), false, true));
    accelerator.backward(first);
    accelerator.backward(second);
    return ddp::gradients(*model);
  });
}

// A generator's step passes through the discriminator, which gets gradients too; its own step then clears them first.
TEST_P(DdpPatterns, GeneratorAndDiscriminator) {
  struct Pair {
    Tensors generator, discriminator;
  };
  const auto train = [](auto& generator, auto& discriminator, auto& g, auto& d, const std::vector<int64_t>& ranks,
                        const std::function<void(const at::Tensor&)>& backward) {
    const auto mean = [&](const std::function<at::Tensor(int64_t)>& loss_of) {
      at::Tensor total = torch::zeros({}, at::kDouble);
      for (const int64_t rank : ranks) total = total + loss_of(rank);
      return total / static_cast<double>(ranks.size());
    };
    for (int64_t step = 0; step < 3; ++step) {
      const auto pad = [](const at::Tensor& two) { return torch::nn::functional::pad(two, {{0, 1}}); };
      backward(mean([&](int64_t rank) {
        return mean_square(discriminator(inputs(rank, step)) - 1) +
               mean_square(discriminator(pad(generator(inputs(rank, step + 50)).detach())));
      }));
      d.step();
      d.zero_grad();
      backward(
          mean([&](int64_t rank) { return mean_square(discriminator(pad(generator(inputs(rank, step + 50)))) - 1); }));
      g.step();
      g.zero_grad();
      d.zero_grad();
    }
  };
  std::vector<int64_t> everybody(static_cast<size_t>(ranks()));
  std::iota(everybody.begin(), everybody.end(), 0);
  Mlp generator(1), discriminator(5);
  torch::optim::SGD g(generator->parameters(), 0.1), d(discriminator->parameters(), 0.1);
  train(generator, discriminator, g, d, everybody, [](const at::Tensor& loss) { loss.backward(); });
  Tensors expected = ddp::values(*generator);
  for (const at::Tensor& value : ddp::values(*discriminator)) expected.push_back(value);

  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1), critic(5);
    torch::optim::SGD net_sgd(net->parameters(), 0.1), critic_sgd(critic->parameters(), 0.1);
    auto [a, b, a_sgd, b_sgd] = accelerator.prepare(net, critic, net_sgd, critic_sgd);
    train(a, b, a_sgd, b_sgd, {rank.rank()}, [&](const at::Tensor& loss) { accelerator.backward(loss); });
    Tensors all = ddp::values(*net);
    for (const at::Tensor& value : ddp::values(*critic)) all.push_back(value);
    return all;
  });
}

struct WithEmbeddingImpl : torch::nn::Module {
  explicit WithEmbeddingImpl(bool sparse) {
    words = register_module("words", torch::nn::Embedding(torch::nn::EmbeddingOptions(6, 3).sparse(sparse)));
    out = register_module("out", torch::nn::Linear(3, 2));
    ddp::fill(*this, 1);
  }
  at::Tensor forward(const at::Tensor& ids) { return out(words(ids)); }
  torch::nn::Embedding words{nullptr};
  torch::nn::Linear out{nullptr};
};
TORCH_MODULE(WithEmbedding);

TEST_P(DdpPatterns, ParametersOfSeveralNamesAreReducedOnce) {
  const auto tied = [] {
    struct NetImpl : torch::nn::Module {
      NetImpl() {
        weight = register_parameter("weight", ddp::numbers({3, 3}, 1));
        again = register_parameter("again", weight);
      }
      at::Tensor forward(const at::Tensor& x) { return torch::tanh(x.matmul(weight)).matmul(again); }
      at::Tensor weight, again;
    };
    return std::make_shared<NetImpl>();
  };
  const auto net = tied();
  ASSERT_TRUE(net->weight.is_same(net->again));
  const auto expected =
      expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net->forward(inputs(rank, 0))); });
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(tied());
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, FrozenParametersStayWithoutGradients) {
  const auto frozen = [] {
    Mlp net(1);
    net->hidden->weight.set_requires_grad(false);
    return net;
  };
  Mlp net = frozen();
  const auto expected =
      expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, 0))); });
  ASSERT_FALSE(expected.front().defined());
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(frozen());
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, FreezingAndUnfreezingIsFollowed) {
  const auto run = [](auto& net, torch::nn::Linear layer, const std::function<void(int64_t step)>& pass) {
    Tensors all;
    for (int64_t step = 0; step < 6; ++step) {
      layer->weight.set_requires_grad(step % 3 == 1);
      pass(step);
      for (const at::Tensor& gradient : ddp::gradients(*net)) all.push_back(gradient);
      net->zero_grad();
    }
    return all;
  };
  Mlp net(1);
  const auto expected = run(net, net->hidden, [&](int64_t step) {
    expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, step))); });
  });
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp own(1);
    auto model = accelerator.prepare(own);
    return run(own, own->hidden,
               [&](int64_t step) { accelerator.backward(mean_square(model(inputs(rank.rank(), step)))); });
  });
}

TEST_P(DdpPatterns, UnusedParametersKeepNoGradientAndUsedOnesOfOneRankReachAll) {
  // Rank 0 uses the first head, the others none; nobody uses the second.
  const auto loss_of = [](auto& model, auto& net, int64_t rank) {
    return mean_square(model(inputs(rank, 0), rank == 0, false)) + mean_square(net.body(inputs(rank, 1)));
  };
  TwoHeads net(1);
  const auto expected = expected_gradients(net, ranks(), [&](int64_t rank) { return loss_of(net, *net, rank); });
  ASSERT_FALSE(expected.back().defined());
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.find_unused_parameters = true}}));
    auto model = accelerator.prepare(TwoHeads(1));
    accelerator.backward(loss_of(model, *model, rank.rank()));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, AStaticGraphMayLeaveParametersOut) {
  TwoHeads net(1);
  const auto run = [](auto& model, auto&& module, const std::function<void(int64_t step)>& pass) {
    Tensors all;
    for (int64_t step = 0; step < 4; ++step) {
      pass(step);
      for (const at::Tensor& gradient : ddp::gradients(*module)) all.push_back(gradient);
      module->zero_grad();
    }
    (void)model;
    return all;
  };
  const auto expected = run(net, net, [&](int64_t step) {
    expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, step), true, false)); });
  });
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.static_graph = true}}));
    auto model = accelerator.prepare(TwoHeads(1));
    return run(model, model.ptr(),
               [&](int64_t step) { accelerator.backward(mean_square(model(inputs(rank.rank(), step), true, false))); });
  });
}

TEST_P(DdpPatterns, GradientsMayBeViewsOfBuckets) {
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  for (int64_t step = 0; step < 4; ++step) {
    expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(inputs(rank, step))); });
    sgd.step();
    sgd.zero_grad();
  }
  expect_everywhere(ddp::values(*net), [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.gradient_as_bucket_view = true}}));
    Mlp own(1);
    torch::optim::SGD own_sgd(own->parameters(), 0.1);
    auto [model, optimizer] = accelerator.prepare(own, own_sgd);
    for (int64_t step = 0; step < 4; ++step) {
      accelerator.backward(mean_square(model(inputs(rank.rank(), step))));
      EXPECT_EQ(own->out->bias.grad().is_alias_of(own->hidden->bias.grad()), ranks() > 1) << "in the only bucket";
      optimizer.step();
      optimizer.zero_grad();
    }
    return ddp::values(*own);
  });
}

TEST_P(DdpPatterns, SparseGradientsOfEmbeddings) {
  const auto ids = [](int64_t rank) { return torch::tensor({rank % 6, int64_t{2}, int64_t{2}}); };
  WithEmbedding net(false);
  const auto expected = expected_gradients(net, ranks(), [&](int64_t rank) { return mean_square(net(ids(rank))); });
  const auto results = ddp::on_ranks<Tensors>(ranks(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.init_process_group = {.backend = "gloo"}}));
    auto model = accelerator.prepare(WithEmbedding(true));
    accelerator.backward(mean_square(model(ids(rank.rank()))));
    Tensors all = ddp::gradients(*model);
    EXPECT_TRUE(ranks() == 1 || all.front().is_sparse());
    all.front() = all.front().to_dense();
    return all;
  });
  for (const Tensors& result : results) EXPECT_LT(ddp::distance(result, expected), ddp::kRounding);
}

TEST_P(DdpPatterns, AGraphCanBeWalkedAgain) {
  Mlp net(1);
  const auto expected =
      expected_gradients(net, ranks(), [&](int64_t rank) { return 2 * mean_square(net(inputs(rank, 0))); });
  expect_everywhere(expected, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    const auto loss = mean_square(model(inputs(rank.rank(), 0)));
    accelerator.backward(loss, {.retain_graph = true});
    accelerator.backward(loss);
    return ddp::gradients(*model);
  });
}

// A penalty on the gradient with respect to the input: autograd::grad runs inside, the parameters' pass outside.
TEST_P(DdpPatterns, AGradientPenalty) {
  const auto loss_of = [](auto& model, int64_t rank) {
    const at::Tensor x = inputs(rank, 0).requires_grad_(true);
    const at::Tensor gradient =
        torch::autograd::grad({model(x).sum()}, {x}, {}, /*retain_graph=*/true, /*create_graph=*/true)[0];
    return mean_square(model(x)) + (gradient.norm(2, 1) - 1).pow(2).mean();
  };
  Mlp net(1);
  const auto expected = expected_gradients(net, ranks(), [&](int64_t rank) { return loss_of(net, rank); });
  expect_everywhere(expected, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(Mlp(1));
    accelerator.backward(loss_of(model, rank.rank()));
    return ddp::gradients(*model);
  });
}

TEST_P(DdpPatterns, ReducedPrecisionReducesFullPrecisionGradients) {
  const auto results = ddp::on_ranks<Tensors>(ranks(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options({.mixed_precision = "bf16"}));
    auto model = accelerator.prepare(Mlp(1, at::kFloat));
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0).to(at::kFloat))));
    return ddp::gradients(*model);
  });
  // One process under autocast.
  Accelerator accelerator({.mixed_precision = "bf16", .world = accelerate::World{}});
  auto model = accelerator.prepare(Mlp(1, at::kFloat));
  for (int64_t rank = 0; rank < ranks(); ++rank)
    accelerator.backward(mean_square(model(inputs(rank, 0).to(at::kFloat))) / static_cast<double>(ranks()));
  for (const Tensors& result : results) {
    EXPECT_EQ(result.front().scalar_type(), at::kFloat);
    // The mean of bfloat16 numbers, taken in float32: only the order of up to four additions differs.
    EXPECT_LT(ddp::distance(result, ddp::gradients(*model)), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, DdpPatterns, testing::Values(1, 2, 4),
                         [](const auto& info) { return "Of" + std::to_string(info.param); });

}  // namespace
