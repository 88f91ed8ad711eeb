// What every registered communication hook keeps: its name is its file's, equal gradients stay what they are, every
// rank gets the same, the mean is near, what one rank spoils is spoiled everywhere, and its state is its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <set>

#include "accelerate/accelerate.h"
#include "accelerate/strategy/ddp/comm_hook.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::Ddp;
using accelerate::PowerSgd;
using accelerate::UsageError;
using accelerate::internal::HookEntry;
using accelerate::support::ThrowsError;
using accelerate::testing::Rank;
using accelerate::testing::run_ranks;

std::vector<HookEntry> entries() { return accelerate::internal::builtin_hooks(); }

bool takes_state(const HookEntry& entry) {
  try {
    entry.make(PowerSgd{});
    return true;
  } catch (const ConfigError&) {
    return false;
  }
}

TEST(HookFolder, NamesAreTheFilesOfTheFolder) {
  std::multiset<std::string> files, names;
  const std::filesystem::path folder = std::filesystem::path(ACCELERATE_SOURCE_DIR) / "accelerate/strategy/ddp/hooks";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".cpp") files.insert(entry.path().stem().string());
  }
  for (const HookEntry& entry : entries()) names.insert(entry.name);
  EXPECT_EQ(names, files);
}

TEST(HookFolder, TheDefaultIsOneOfThemAndSendsGradientsAsTheyAre) {
  EXPECT_EQ(accelerate::internal::make_hook(Ddp{}), nullptr);
}

/// The original's names.
TEST(HookFolder, HasTheHooksAndWrappersOfTheOriginal) {
  std::set<std::string> hooks, wrappers;
  for (const HookEntry& entry : entries()) {
    hooks.insert(entry.name);
    if (entry.wrap) wrappers.insert(entry.name);
  }
  EXPECT_THAT(hooks, testing::IsSupersetOf({"no", "fp16", "bf16", "power_sgd", "batched_power_sgd"}));
  EXPECT_THAT(wrappers, testing::UnorderedElementsAre("no", "fp16", "bf16"));
}

/// One hook over one transport, from the first pass on if it would wait.
struct Case {
  HookEntry entry;
  std::string backend;
  int64_t ranks = 2;
  Ddp options() const {
    Ddp options{.bucket_cap_mb = 0.001, .comm_hook = entry.name};
    if (takes_state(entry))
      options.comm_state_option = PowerSgd{.matrix_approximation_rank = 3, .start_powerSGD_iter = 2};
    return options;
  }
};

void PrintTo(const Case& given, std::ostream* out) { *out << given.entry.name << " over " << given.backend; }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const HookEntry& entry : entries()) {
    for (const std::string& backend : {"shm", "gloo"}) {
      for (const int64_t ranks : {2, 4}) all.push_back({entry, backend, ranks});
    }
  }
  return all;
}

class HookContract : public testing::TestWithParam<Case> {};

/// Numbers of rank one and a bit more, different on each rank.
at::Tensor numbers(at::IntArrayRef shape, double seed) {
  return torch::sin(torch::arange(c10::multiply_integers(shape), at::kDouble) * 0.37 + seed).view(shape);
}

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", torch::nn::Linear(12, 16));
    second = register_module("second", torch::nn::Linear(16, 16));
    third = register_module("third", torch::nn::Linear(16, 3));
    scale = register_parameter("scale", torch::ones({}));
    torch::NoGradGuard no_grad;
    to(at::kDouble);
    double seed = 1;
    for (at::Tensor& parameter : parameters()) parameter.copy_(numbers(parameter.sizes(), seed++) * 0.5);
  }
  at::Tensor forward(const at::Tensor& x) { return third(torch::tanh(second(torch::tanh(first(x))))) * scale; }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
  at::Tensor scale;
};
TORCH_MODULE(Net);

std::vector<at::Tensor> gradients(const NetImpl& net) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& parameter : net.parameters()) all.push_back(parameter.grad().clone());
  return all;
}

void run(const Case& given, const std::function<void(const Rank&, Accelerator&)>& body) {
  run_ranks(given.ranks,
            [&](const Rank& rank) {
              Accelerator accelerator(rank.options({.strategy = given.options()}));
              body(rank, accelerator);
            },
            {.backend = given.backend});
}

TEST_P(HookContract, EveryRankGetsTheSameAndNotFarFromTheMean) {
  std::vector<std::vector<std::vector<at::Tensor>>> got(static_cast<size_t>(GetParam().ranks));
  run(GetParam(), [&](const Rank& rank, Accelerator& accelerator) {
    auto model = accelerator.prepare(Net());
    for (int64_t pass = 0; pass < 8; ++pass) {
      // The same data in every pass, so that what compression loses comes in the next ones.
      accelerator.backward(model(numbers({5, 12}, 1.0 + static_cast<double>(rank.rank()))).pow(2).mean());
      got[static_cast<size_t>(rank.rank())].push_back(gradients(*model));
      model->zero_grad();
    }
  });
  std::vector<at::Tensor> mean(got[0][0].size());
  for (int64_t rank = 0; rank < GetParam().ranks; ++rank) {
    Net net;
    net->forward(numbers({5, 12}, 1.0 + static_cast<double>(rank))).pow(2).mean().backward();
    const auto own = gradients(*net);
    for (size_t i = 0; i < mean.size(); ++i) {
      const at::Tensor part = own[i] / static_cast<double>(GetParam().ranks);
      mean[i] = mean[i].defined() ? mean[i] + part : part;
    }
  }
  for (size_t pass = 0; pass < 8; ++pass) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < mean.size(); ++i) {
      for (size_t rank = 1; rank < got.size(); ++rank) EXPECT_TRUE(torch::equal(got[rank][pass][i], got[0][pass][i]));
      difference += (got[0][pass][i] - mean[i]).pow(2).sum().item<double>();
      size += mean[i].pow(2).sum().item<double>();
    }
    // Rank 3 of at most 16, five samples on each rank: what is left out is small, what is rounded smaller.
    EXPECT_LT(std::sqrt(difference / size), 0.35) << "pass " << pass;
  }
}

TEST_P(HookContract, EqualGradientsOfLowRankStayWhatTheyAre) {
  run(GetParam(), [&](const Rank&, Accelerator& accelerator) {
    auto model = accelerator.prepare(torch::nn::Linear(torch::nn::LinearOptions(16, 16).bias(false)));
    const at::Tensor column = torch::arange(16, at::kFloat).view({1, 16}) / 16;
    for (int64_t pass = 0; pass < 5; ++pass) {
      // The gradient is an outer product of numbers that every precision holds.
      accelerator.backward((model(column) * torch::arange(16, at::kFloat)).sum() / 16);
      const at::Tensor expected = torch::arange(16, at::kFloat).view({16, 1}) * column / 16;
      EXPECT_TRUE(torch::allclose(model->weight.grad(), expected, 1e-2, 1e-3)) << "pass " << pass;
      model->zero_grad();
    }
  });
}

TEST_P(HookContract, AGradientOfZeroStaysZero) {
  run(GetParam(), [&](const Rank&, Accelerator& accelerator) {
    auto model = accelerator.prepare(Net());
    for (int64_t pass = 0; pass < 5; ++pass) {
      accelerator.backward((model(numbers({2, 12}, 1)) * 0).sum());
      for (const at::Tensor& gradient : gradients(*model)) EXPECT_EQ(gradient.abs().max().item<double>(), 0);
      model->zero_grad();
    }
  });
}

/// Also when the hook has begun to remember, and it can be used again.
TEST_P(HookContract, AParameterWithoutAGradientOnOneRankIsAnErrorOnAll) {
  run(GetParam(), [&](const Rank& rank, Accelerator& accelerator) {
    auto model = accelerator.prepare(Net());
    const auto good = [&] { accelerator.backward(model(numbers({2, 12}, 1)).sum()); };
    for (int64_t pass = 0; pass < 4; ++pass) good();
    const auto bad = [&] {
      accelerator.backward(rank.rank() == 1 ? model->first(numbers({2, 12}, 1)).sum()
                                            : model(numbers({2, 12}, 1)).sum());
    };
    EXPECT_THAT(bad, ThrowsError<UsageError>({.place = "backward",
                                              .what = "cannot be averaged",
                                              .got = "on rank 1",
                                              .expected = "a gradient for every trainable parameter",
                                              .remedy = "find_unused_parameters"}));
    for (int64_t pass = 0; pass < 4; ++pass) {
      model->zero_grad();
      good();
      for (const at::Tensor& gradient : gradients(*model)) EXPECT_TRUE(gradient.isfinite().all().item<bool>());
    }
  });
}

TEST_P(HookContract, BucketsThatChangeAreForgotten) {
  run(GetParam(), [&](const Rank& rank, Accelerator& accelerator) {
    auto model = accelerator.prepare(Net());
    for (int64_t pass = 0; pass < 9; ++pass) {
      if (pass == 4) model->first->weight.set_requires_grad(false);
      accelerator.backward(model(numbers({2, 12}, static_cast<double>(rank.rank()))).sum());
      EXPECT_EQ(model->first->weight.grad().defined(), pass < 4);
      const at::Tensor own = model->second->weight.grad();
      EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own)) << "pass " << pass;
      model->zero_grad();
    }
  });
}

/// The hooks of two models of one loss know nothing of each other.
TEST_P(HookContract, TwoModelsOfOneLoss) {
  run(GetParam(), [&](const Rank& rank, Accelerator& accelerator) {
    torch::nn::Linear last(torch::nn::LinearOptions(3, 12));
    last->to(at::kDouble);
    auto [one, two] = accelerator.prepare(Net(), last);
    for (int64_t pass = 0; pass < 5; ++pass) {
      accelerator.backward(two(one(numbers({4, 12}, 1.0 + static_cast<double>(rank.rank())))).pow(2).sum());
      for (const at::Tensor& parameter : two->parameters()) {
        EXPECT_TRUE(torch::equal(accelerator.broadcast(parameter.grad().clone()), parameter.grad()));
      }
      one->zero_grad();
      two->zero_grad();
    }
  });
}

TEST_P(HookContract, StateThatItDoesNotHaveIsRefused) {
  const HookEntry& entry = GetParam().entry;
  if (takes_state(entry)) return;
  EXPECT_THAT([&] { entry.make(PowerSgd{}); }, ThrowsError<ConfigError>({.place = "comm_state_option",
                                                                         .what = "has no state",
                                                                         .got = ".comm_hook = \"" + entry.name + "\"",
                                                                         .expected = "no .comm_state_option",
                                                                         .remedy = "Leave it out"}));
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  return info.param.entry.name + "_" + info.param.backend + "_" + std::to_string(info.param.ranks);
}
INSTANTIATE_TEST_SUITE_P(Hooks, HookContract, testing::ValuesIn(cases()), name_of);

}  // namespace
