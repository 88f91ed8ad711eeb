// Several ranks and the less usual models: evaluated only, scripted, untyped, without anything to train, freed; groups
// added later; LBFGS; norms that are not finite.
#include <torch/script.h>

#include <limits>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::inputs;
using ddp::mean_square;
using ddp::Mlp;
using ddp::Rank;
using ddp::Tensors;

class PreparedModels : public testing::TestWithParam<int64_t> {
 protected:
  void on_ranks(const std::function<void(const Rank&)>& body) { ddp::on_ranks(GetParam(), body); }
};

class AveragedModels : public PreparedModels {};

/// The gradients of the mean over `ranks` ranks of the loss of `step`.
Tensors averaged(int64_t ranks, int64_t step) {
  Mlp net(1);
  mean_square(net(ddp::all_inputs(ranks, step))).backward();
  return ddp::gradients(*net);
}

TEST_P(PreparedModels, ForEvaluationAreLeftToTheirProcess) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp own(1 + static_cast<double>(rank.rank())), net(1 + static_cast<double>(rank.rank()));
    auto model = accelerator.prepare_model(net, {.evaluation_mode = true});
    EXPECT_TRUE(ddp::equal(ddp::values(*net), ddp::values(*own))) << "not those of rank 0";
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    mean_square(own->forward(inputs(rank.rank(), 0))).backward();
    EXPECT_TRUE(ddp::equal(ddp::gradients(*net), ddp::gradients(*own))) << "not averaged";
    net->zero_grad();
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))), {.weight = 3 + rank.rank()});
    EXPECT_LT(ddp::distance(ddp::gradients(*net), ddp::gradients(*own)), ddp::kRounding) << "the mean of its own";
  });
}

// Each process would train it apart from the others.
TEST_P(PreparedModels, ForEvaluationHaveNoOptimizerUnlessThereIsOneProcess) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1), trained(1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    accelerator.prepare_model(net, {.evaluation_mode = true});
    auto [model, optimizer] = accelerator.prepare(trained, torch::optim::SGD(trained->parameters(), 0.1));
    const auto prepare = [&] { accelerator.prepare(sgd); };
    const auto add = [&, &optimizer = optimizer] {
      optimizer.add_param_group(torch::optim::OptimizerParamGroup(net->parameters()));
    };
    if (rank.size() == 1) {
      EXPECT_NO_THROW(prepare());
      EXPECT_NO_THROW(add());
      return;
    }
    for (const char* place : {"prepare", "optimizer.add_param_group"}) {
      const bool adds = place != std::string("prepare");
      EXPECT_THAT([&] { adds ? add() : prepare(); },
                  ThrowsError<UsageError>({.place = place,
                                           .what = "prepared for evaluation only",
                                           .got = adds ? "parameter 0 of group 1" : "parameter 0 of group 0",
                                           .expected = "averaged over the processes",
                                           .remedy = "without .evaluation_mode"}));
    }
    EXPECT_EQ(optimizer.param_groups().size(), 1U);
  });
}

// The original refuses such a model on the CPU.
TEST_P(PreparedModels, WithNothingToTrainAreLeftAlone) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp frozen(2 + static_cast<double>(rank.rank()));
    for (at::Tensor& parameter : frozen->parameters()) parameter.requires_grad_(false);
    const Tensors before = ddp::values(*frozen);
    auto [teacher, student] = accelerator.prepare(frozen, Mlp(1));
    EXPECT_TRUE(ddp::equal(ddp::values(*frozen), before));
    const at::Tensor x = inputs(rank.rank(), 0);
    accelerator.backward((student(x) - teacher(x)).pow(2).mean());
    EXPECT_FALSE(frozen->out->weight.grad().defined());
    EXPECT_TRUE(student->out->weight.grad().defined());
  });
}

torch::jit::Module script_of(double seed) {
  const Mlp net(seed);
  torch::jit::Module script("Net");
  script.register_parameter("w1", net->hidden->weight.detach().clone().requires_grad_(), false);
  script.register_parameter("b1", net->hidden->bias.detach().clone().requires_grad_(), false);
  script.register_parameter("w2", net->out->weight.detach().clone().requires_grad_(), false);
  script.register_parameter("b2", net->out->bias.detach().clone().requires_grad_(), false);
  script.define(R"(
def forward(self, x):
  h = torch.tanh(torch.matmul(x, self.w1.t()) + self.b1)
  return torch.matmul(h, self.w2.t()) + self.b2
)");
  return script;
}

TEST_P(PreparedModels, ThatAreScriptedAreAveraged) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto script = script_of(1 + static_cast<double>(rank.rank()));
    auto model = accelerator.prepare(script);
    for (int64_t step = 0; step < 3; ++step) {
      accelerator.backward(mean_square(model(inputs(rank.rank(), step)).toTensor()));
      Tensors gradients;
      for (const at::Tensor& parameter : script.parameters()) {
        gradients.push_back(parameter.grad().clone());
        parameter.mutable_grad().reset();
      }
      EXPECT_LT(ddp::distance(gradients, averaged(rank.size(), step)), ddp::kRounding) << "step " << step;
    }
  });
}

TEST_P(PreparedModels, OfUnknownTypeAreAveraged) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1 + static_cast<double>(rank.rank()));
    auto model = accelerator.prepare(std::shared_ptr<torch::nn::Module>(net.ptr()));
    const at::Tensor output = model.call(
        [&](torch::nn::Module& module) { return module.as<ddp::MlpImpl>()->forward(inputs(rank.rank(), 0)); });
    accelerator.backward(mean_square(output));
    EXPECT_LT(ddp::distance(ddp::gradients(*net), averaged(rank.size(), 0)), ddp::kRounding);
  });
}

TEST_P(PreparedModels, AreFreedAndPreparedAgain) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2}));
    Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.0);
    for (int round = 0; round < 3; ++round) {
      auto [model, optimizer] = accelerator.prepare(net, sgd);
      const auto old_model = model;
      {
        const auto window = accelerator.accumulate(model);
        accelerator.backward(2 * mean_square(model(inputs(rank.rank(), 0))));
      }
      accelerator.free_memory(model, optimizer);  // in the middle of a window, with gradients of this rank alone
      EXPECT_EQ(old_model(inputs(rank.rank(), 0)).size(0), 4);
      net->zero_grad();
    }
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    for (int64_t step = 0; step < 2; ++step) {
      const auto window = accelerator.accumulate(model);
      accelerator.backward(mean_square(model(inputs(rank.rank(), 5))));
      EXPECT_EQ(accelerator.sync_gradients(), step == 1);
    }
    EXPECT_LT(ddp::distance(ddp::gradients(*net), averaged(rank.size(), 5)), ddp::kRounding);
  });
}

TEST_P(AveragedModels, OfAGroupAddedLaterAreCheckedBeforeTheirUpdate) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp first(1), second(1);
    torch::optim::SGD sgd(first->parameters(), 0.1);
    auto [model, optimizer] = accelerator.prepare(first, sgd);
    auto later = accelerator.prepare(second);
    optimizer.add_param_group(torch::optim::OptimizerParamGroup(second->parameters()));
    mean_square(later(inputs(rank.rank(), 0))).backward();  // past the Accelerator
    const auto step = [&optimizer = optimizer] { optimizer.step(); };
    EXPECT_THAT(step,
                ThrowsError<UsageError>({.place = "optimizer.step", .got = "did not go through the Accelerator"}));
    optimizer.zero_grad();
    accelerator.backward(mean_square(later(inputs(rank.rank(), 0))));
    EXPECT_TRUE(optimizer.step().applied());
  });
}

torch::optim::LBFGSOptions lbfgs_options() {
  return torch::optim::LBFGSOptions(0.5).max_iter(6).line_search_fn("strong_wolfe");
}

// The ranks' losses differ. On its own loss each would take other decisions and call the closure another number of
// times.
TEST_P(PreparedModels, AreTrainedByLbfgsAsInOneProcess) {
  Mlp twin(1);
  torch::optim::LBFGS by_hand(twin->parameters(), lbfgs_options());
  std::vector<double> losses;
  for (int step = 0; step < 4; ++step) {
    const at::Tensor loss = by_hand.step([&] {
      by_hand.zero_grad();
      auto value = mean_square(twin(ddp::all_inputs(GetParam(), step)) - 0.25);
      value.backward();
      return value;
    });
    losses.push_back(loss.item<double>());
  }
  const auto results = ddp::on_ranks<Tensors>(GetParam(), [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1 + static_cast<double>(rank.rank()));
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::LBFGS(net->parameters(), lbfgs_options()));
    for (int step = 0; step < 4; ++step) {
      const auto result = optimizer.step([&, &model = model, &optimizer = optimizer] {
        optimizer.zero_grad();
        const at::Tensor loss = mean_square(model(inputs(rank.rank(), step)) - 0.25);
        accelerator.backward(loss);
        return loss;
      });
      EXPECT_NEAR(result.loss().item<double>(), losses[static_cast<size_t>(step)], 1e-9);
    }
    return ddp::values(*net);
  });
  for (const Tensors& result : results) {
    // A line search carries rounding errors along.
    EXPECT_LT(ddp::distance(result, ddp::values(*twin)), 1e-8);
    EXPECT_TRUE(ddp::equal(result, results.front())) << "all ranks hold the same";
  }
}

// Each takes its own decisions, and calls its closure as often as it likes.
TEST_P(PreparedModels, UnderNoSyncAreTrainedByLbfgsEachOnItsOwn) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1), twin(1);
    torch::optim::LBFGS by_hand(twin->parameters(), lbfgs_options());
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::LBFGS(net->parameters(), lbfgs_options()));
    const auto local = accelerator.no_sync(model);
    for (int64_t step = 0; step <= rank.rank(); ++step) {
      const auto result = optimizer.step([&, &model = model, &optimizer = optimizer] {
        optimizer.zero_grad();
        const at::Tensor loss = mean_square(model(inputs(rank.rank(), step)) - 0.25);
        accelerator.backward(loss);
        return loss;
      });
      const at::Tensor loss = by_hand.step([&] {
        by_hand.zero_grad();
        auto value = mean_square(twin(inputs(rank.rank(), step)) - 0.25);
        value.backward();
        return value;
      });
      EXPECT_NEAR(result.loss().item<double>(), loss.item<double>(), ddp::kRounding);
    }
    EXPECT_LT(ddp::distance(ddp::values(*net), ddp::values(*twin)), 1e-8);
  });
}

TEST_P(AveragedModels, AClosureThatGoesPastTheAcceleratorIsRefused) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
    const Tensors before = ddp::values(*net);
    const auto step = [&, &model = model, &optimizer = optimizer] {
      optimizer.step([&] {
        optimizer.zero_grad();
        at::Tensor loss = mean_square(model(inputs(rank.rank(), 0)));
        loss.backward();
        return loss;
      });
    };
    EXPECT_THAT(step,
                ThrowsError<UsageError>({.place = "optimizer.step", .got = "did not go through the Accelerator"}));
    EXPECT_TRUE(ddp::equal(ddp::values(*net), before));
  });
}

TEST_P(PreparedModels, WithANormThatIsNotFiniteOnOneRankAreRefusedOnEach) {
  on_ranks([](const Rank& rank) {
    Accelerator accelerator(rank.options());
    Mlp net(1);
    auto model = accelerator.prepare(net);
    at::Tensor x = inputs(rank.rank(), 0);
    if (rank.rank() == rank.size() - 1) x[0][0] = std::numeric_limits<double>::quiet_NaN();
    accelerator.backward(mean_square(model(x)));
    EXPECT_THAT([&] { accelerator.clip_grad_norm_(model, {.max_norm = 1, .error_if_nonfinite = true}); },
                ThrowsError<UsageError>({.place = "clip_grad_norm_", .got = "hidden.weight"}));
    net->zero_grad();
    accelerator.backward(mean_square(model(inputs(rank.rank(), 0))));
    EXPECT_NO_THROW(accelerator.clip_grad_norm_(model, {.max_norm = 1, .error_if_nonfinite = true}));
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, PreparedModels, testing::Values(1, 2, 4),
                         [](const auto& info) { return std::to_string(info.param); });
// One process averages nothing.
INSTANTIATE_TEST_SUITE_P(Ranks, AveragedModels, testing::Values(2, 4),
                         [](const auto& info) { return std::to_string(info.param); });

}  // namespace
