// LocalSGD: each process on its own, and the mean of all every so many steps.
#include "accelerate/local_sgd.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <optional>
#include <string>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::LocalSGD;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Rank;
using ddp::Tensors;

struct Run {
  int64_t ranks = 1;
  int64_t every = 1;
  int64_t steps = 1;
  bool enabled = true;
};

void set(torch::nn::Module& module, const Tensors& values) {
  const torch::NoGradGuard no_grad;
  auto parameters = module.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i].copy_(values[i]);
}

/// LibTorch alone: a copy for each process, with an optimizer of its own.
Tensors definition(const Run& run) {
  std::vector<ddp::Mlp> nets;
  std::vector<torch::optim::SGD> sgds;
  for (int64_t rank = 0; rank < run.ranks; ++rank) {
    nets.emplace_back(1);
    sgds.emplace_back(nets.back()->parameters(), torch::optim::SGDOptions(0.2).momentum(0.5));
  }
  const auto average = [&] {
    Tensors means = ddp::values(*nets[0]);
    for (size_t rank = 1; rank < nets.size(); ++rank) {
      for (size_t i = 0; i < means.size(); ++i) means[i] += ddp::values(*nets[rank])[i];
    }
    for (at::Tensor& mean : means) mean /= static_cast<double>(run.ranks);
    for (ddp::Mlp& net : nets) set(*net, means);
  };
  for (int64_t step = 1; step <= run.steps; ++step) {
    for (int64_t rank = 0; rank < run.ranks; ++rank) {
      nets[static_cast<size_t>(rank)]->zero_grad();
      ddp::mean_square(nets[static_cast<size_t>(rank)]->forward(ddp::inputs(rank, step))).backward();
      sgds[static_cast<size_t>(rank)].step();
    }
    if (step % run.every == 0) average();
  }
  average();
  return ddp::values(*nets[0]);
}

template <class Model>
void train_step(Accelerator& accelerator, const Model& model, accelerate::Optimizer& optimizer, const at::Tensor& x) {
  accelerator.backward(ddp::mean_square(model(x)));
  optimizer.step();
  optimizer.zero_grad();
}

RC_GTEST_PROP(LocalSGDProperty, ParametersAreTheDefinitions, ()) {
  const Run run{.ranks = *rc::gen::element<int64_t>(1, 2, 4),
                .every = *rc::gen::inRange<int64_t>(1, 5),
                .steps = *rc::gen::inRange<int64_t>(0, 8)};
  const Tensors expected = definition(run);
  const auto all = ddp::on_ranks<Tensors>(run.ranks, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    ddp::Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.2).momentum(0.5));
    auto model = accelerator.prepare(net);
    auto optimizer = accelerator.prepare(sgd);
    LocalSGD local(accelerator, model, {.local_sgd_steps = run.every});
    for (int64_t step = 1; step <= run.steps; ++step) {
      train_step(accelerator, model, optimizer, ddp::inputs(rank.rank(), step));
      local.step();
    }
    EXPECT_EQ(local.num_steps(), run.steps);
    local.finish();
    return ddp::values(*model);
  });
  for (const Tensors& got : all) RC_ASSERT(ddp::distance(got, expected) < ddp::kRounding);
}

/// Afterwards gradients are averaged again; a destructor ends it like finish().
TEST(LocalSGD, EndsWithItsScope) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    ddp::Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.2);
    auto model = accelerator.prepare(net);
    auto optimizer = accelerator.prepare(sgd);
    const auto same = [&] {
      const at::Tensor own = model->out->weight.detach();
      return torch::equal(accelerator.broadcast(own.clone()), own);
    };
    {
      LocalSGD outer(accelerator, model, {.local_sgd_steps = 100});
      LocalSGD local(std::move(outer));
      train_step(accelerator, model, optimizer, ddp::inputs(rank.rank(), 0));
      local.step();
      EXPECT_EQ(same(), rank.rank() == 0);
    }
    EXPECT_TRUE(same());
    train_step(accelerator, model, optimizer, ddp::inputs(rank.rank(), 1));
    EXPECT_TRUE(same());
  });
}

TEST(LocalSGD, FrozenAndTiedParametersAndBuffers) {
  struct NetImpl : torch::nn::Module {
    NetImpl() {
      one = register_module("one", torch::nn::Linear(2, 2));
      register_parameter("tied", one->weight);
      one->bias.set_requires_grad(false);
      seen = register_buffer("seen", torch::zeros({}));
      ddp::fill(*this, 1);
    }
    at::Tensor forward(const at::Tensor& x) { return one(x); }
    torch::nn::Linear one{nullptr};
    at::Tensor seen;
  };
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(std::make_shared<NetImpl>());
    {
      const torch::NoGradGuard no_grad;
      model->one->weight.fill_(1.0 + static_cast<double>(rank.rank()));
      model->seen.fill_(static_cast<double>(rank.rank()));
    }
    LocalSGD(accelerator, model, {}).finish();
    EXPECT_TRUE(torch::equal(model->one->weight, torch::full({2, 2}, 1.5, at::kDouble)));
    EXPECT_EQ(model->seen.item<double>(), static_cast<double>(rank.rank()));
  });
}

/// The guard needs the Accelerator's ranks and not the object that made it.
TEST(LocalSGD, OutlivesAMoveOfItsAccelerator) {
  ddp::on_ranks(2, [](const Rank& rank) {
    std::optional<Accelerator> moved;
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(ddp::Mlp(1));
    {
      LocalSGD local(accelerator, model, {});
      moved.emplace(std::move(accelerator));
      const torch::NoGradGuard no_grad;
      model->out->bias.fill_(static_cast<double>(rank.rank()));
    }
    EXPECT_TRUE(torch::equal(model->out->bias, torch::full({2}, 0.5, at::kDouble)));
  });
}

/// What its destructor could not throw, the next verb does.
TEST(LocalSGD, AnErrorAtTheEndOfTheScopeIsNotLost) {
  ddp::on_ranks(2, [](const Rank& rank) {
    auto options = rank.options();
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    Accelerator accelerator(options);
    auto model = accelerator.prepare(ddp::Mlp(1));
    const auto loop = [&] {
      LocalSGD local(accelerator, model, {});
      if (rank.rank() == 1) throw std::runtime_error("mine");
    };
    if (rank.rank() == 1) {
      EXPECT_THROW(loop(), std::runtime_error);
      return accelerator.end_training();
    }
    loop();
    EXPECT_THROW(auto window = accelerator.accumulate(model), accelerate::CommError);
    EXPECT_NO_THROW(auto window = accelerator.accumulate(model));
  });
}

/// Counters and tables of indices are no weights; large models travel in parts.
TEST(LocalSGD, WholeNumbersStayAndLargeModelsTravelInParts) {
  struct NetImpl : torch::nn::Module {
    NetImpl() {
      for (int i = 0; i < 3; ++i) {
        parts.push_back(register_parameter("part" + std::to_string(i), torch::zeros({2 << 20, 2}, at::kFloat)));
      }
      steps = register_parameter("steps", torch::zeros({2}, at::kLong), /*requires_grad=*/false);
      phase = register_parameter("phase", torch::zeros({2}, at::kComplexFloat));
      half = register_parameter("half", torch::zeros({2}, at::kHalf));
    }
    at::Tensor forward(const at::Tensor& x) { return x; }
    Tensors parts;
    at::Tensor steps, phase, half;
  };
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(std::make_shared<NetImpl>());
    {
      const torch::NoGradGuard no_grad;
      for (at::Tensor& parameter : model->parameters()) parameter.fill_(1 + 2 * rank.rank());
    }
    LocalSGD(accelerator, model, {}).finish();
    EXPECT_TRUE(torch::equal(model->steps, torch::full({2}, 1 + 2 * rank.rank(), at::kLong)));
    for (const at::Tensor& part : model->parts) EXPECT_TRUE(part.eq(2).all().item<bool>());
    EXPECT_TRUE(model->phase.eq(2).all().item<bool>());
    EXPECT_TRUE(model->half.eq(2).all().item<bool>());
  });
}

TEST(LocalSGD, NotEnabledIsACounter) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    ddp::Mlp net(1);
    torch::optim::SGD sgd(net->parameters(), 0.2);
    auto model = accelerator.prepare(net);
    auto optimizer = accelerator.prepare(sgd);
    LocalSGD local(accelerator, model, {.local_sgd_steps = 1, .enabled = false});
    train_step(accelerator, model, optimizer, ddp::inputs(rank.rank(), 0));
    const at::Tensor own = model->out->weight.detach();
    EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own));
    local.step();
    EXPECT_EQ(local.num_steps(), 1);
  });
}

TEST(LocalSGD, CallsThatCannotBeMeantAreErrors) {
  Accelerator accelerator({.cpu = true});
  auto model = accelerator.prepare(ddp::Mlp(1));
  EXPECT_THAT([&] { LocalSGD(accelerator, model, {.local_sgd_steps = 0}).finish(); },
              ThrowsError<UsageError>({.place = "LocalSGD",
                                       .what = "not positive",
                                       .got = ".local_sgd_steps = 0",
                                       .expected = "1 or more",
                                       .remedy = "local_sgd_steps"}));
  LocalSGD local(accelerator, model, {.local_sgd_steps = 2});
  local.finish();
  EXPECT_THAT([&] { local.step(); }, ThrowsError<UsageError>({.place = "LocalSGD",
                                                              .what = "finished",
                                                              .got = "step() after finish()",
                                                              .expected = "before",
                                                              .remedy = "new LocalSGD"}));
}

/// Averages would follow what is not yet the mean of all.
TEST(LocalSGD, AnEmaThatFollowsByItselfIsRefused) {
  for (const int64_t ranks : {1, 2}) {
    ddp::on_ranks(ranks, [&](const Rank& rank) {
      Accelerator accelerator(rank.options());
      ddp::Mlp net(1);
      auto model = accelerator.prepare(net);
      auto optimizer = accelerator.prepare(torch::optim::SGD(net->parameters(), 0.2));
      const auto ends = [&](std::optional<accelerate::Ema>& ema, accelerate::ErrorText words) {
        LocalSGD local(accelerator, model, {.local_sgd_steps = 2});
        ema.emplace(model);
        ema->follow(optimizer);
        train_step(accelerator, model, optimizer, ddp::inputs(rank.rank(), 1));
        local.step();
        if (ranks == 1) return local.step();
        EXPECT_THAT([&] { local.step(); }, ThrowsError<UsageError>(words));
        ema.reset();
        local.finish();
      };
      const accelerate::ErrorText words{.place = "LocalSGD",
                                        .what = "before its weights are those of all processes",
                                        .got = "an Ema with follow(optimizer)",
                                        .expected = "updated after local.step()",
                                        .remedy = "local.step(); ema.update(result);"};
      std::optional<accelerate::Ema> ema;
      ends(ema, words);
      ema.emplace(model);
      ema->follow(optimizer);
      if (ranks == 1) {
        LocalSGD(accelerator, model, {}).finish();
      } else {
        EXPECT_THAT([&] { LocalSGD(accelerator, model, {}).finish(); }, ThrowsError<UsageError>(words));
      }
    });
  }
}

/// An exception leaves without an exchange that the others do not make.
TEST(LocalSGD, AnExceptionDoesNotAverage) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(ddp::Mlp(1));
    const auto loop = [&] {
      LocalSGD local(accelerator, model, {});
      if (rank.rank() == 0) throw std::runtime_error("mine");
      accelerator.wait_for_everyone();
      throw std::runtime_error("mine");
    };
    if (rank.rank() == 0) {
      EXPECT_THROW(loop(), std::runtime_error);
      accelerator.wait_for_everyone();
    } else {
      EXPECT_THROW(loop(), std::runtime_error);
    }
    accelerator.wait_for_everyone();
  });
}

}  // namespace
