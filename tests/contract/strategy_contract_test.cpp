// What every registered strategy keeps: keys, identities, numbers and round trips, in every world it accepts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <set>

#include "accelerate/accelerate.h"
#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/strategy.h"
#include "accelerate/testing/ranks.h"

namespace {

using accelerate::GradientSync;
using accelerate::ShardedTensor;
using accelerate::Strategy;
using accelerate::StrategyEntry;

std::vector<StrategyEntry> entries() { return accelerate::internal::builtin_strategies(); }

TEST(StrategyFolder, NamesAreTheFilesOfTheFolder) {
  std::multiset<std::string> files, names;
  const std::filesystem::path folder = std::filesystem::path(ACCELERATE_SOURCE_DIR) / "accelerate/strategy/strategies";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".cpp") files.insert(entry.path().stem().string());
  }
  for (const StrategyEntry& entry : entries()) names.insert(entry.name);
  EXPECT_FALSE(files.empty());
  EXPECT_EQ(names, files);
}

TEST(StrategyFolder, OneProcessIsTakenByOneOfThem) {
  const auto takes = [](const StrategyEntry& entry) { return !entry.refusal(accelerate::World{}); };
  const auto all = entries();
  EXPECT_EQ(std::count_if(all.begin(), all.end(), takes), 1);
}

class Collected final : public accelerate::StateWriter {
 public:
  void write(const ShardedTensor& tensor) override { tensors.push_back(tensor); }
  std::vector<ShardedTensor> tensors;
};

/// Asks like a checkpoint: takes the requests, fills them when the load has finished.
class Requested final : public accelerate::StateReader {
 public:
  void read(const ShardedTensor& tensor) override { tensors.push_back(tensor); }
  std::vector<ShardedTensor> tensors;
};

/// Parameters, a frozen one, buffers, a nested module.
struct NestedImpl : torch::nn::Module {
  NestedImpl() {
    body = register_module("body", torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4)));
    head = register_module("head", torch::nn::Linear(4, 2));
    head->bias.set_requires_grad(false);
    const torch::NoGradGuard no_grad;
    double seed = 1;  // the ranks are threads, and there is one generator
    for (at::Tensor& parameter : parameters())
      parameter.copy_(torch::sin(torch::arange(parameter.numel()) * 1.7 + seed++).view(parameter.sizes()));
  }
  at::Tensor forward(const at::Tensor& x) { return head(body->forward(x)); }
  torch::nn::Sequential body{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Nested);

/// An entry in a world of some size.
struct Case {
  StrategyEntry entry;
  int64_t ranks = 1;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const StrategyEntry& entry : entries()) {
    for (const int64_t ranks : {1, 2, 4}) all.push_back({entry, ranks});
  }
  return all;
}

/// What one rank has: its module as it was before and since its strategy has it.
struct Held {
  Held(const StrategyEntry& entry, const accelerate::testing::Rank& rank) : rank(rank.rank()), ranks(rank.size()) {
    const torch::NoGradGuard no_grad;
    for (const auto& item : net->named_parameters()) own.emplace_back(item.key(), item.value());
    for (const auto& item : net->named_buffers()) own.emplace_back(item.key(), item.value());
    for (const auto& [name, tensor] : own) before.push_back(tensor.clone());
    for (auto& [name, tensor] : own) tensor.add_(rank.rank());  // rank 0's are what all go on with
    strategy = entry.make({});
    table = strategy->attach({.module = *net, .group = rank.group(), .precision = {}, .log = accelerate::Log({}, 0)});
  }
  at::Tensor batch(int64_t of_rank) const {
    return torch::sin(torch::arange(15) * 0.9 + static_cast<double>(of_rank)).view({5, 3});
  }

  int64_t rank = 0, ranks = 1;
  Nested net;
  std::vector<std::pair<std::string, at::Tensor>> own;  ///< the module's tensors under its own names
  std::vector<at::Tensor> before;
  std::unique_ptr<Strategy> strategy;
  accelerate::ParameterTable table;
};

class StrategyContract : public testing::TestWithParam<Case> {
 protected:
  static accelerate::World world(int64_t size) {
    return {.rank = 0, .size = size, .local_rank = 0, .local_size = size};
  }
  void SetUp() override {
    if (const auto refusal = GetParam().entry.refusal(world(GetParam().ranks))) GTEST_SKIP() << *refusal;
  }
  void on_every_rank(const std::function<void(Held&)>& body) {
    accelerate::testing::run_ranks(GetParam().ranks, [&](const accelerate::testing::Rank& rank) {
      Held held(GetParam().entry, rank);
      body(held);
      held.strategy->end();
    });
  }
};

TEST_P(StrategyContract, ARefusalHasAReason) {
  for (const int64_t size : {1, 2, 8}) {
    EXPECT_NE(GetParam().entry.refusal(world(size)), std::optional<std::string>("")) << "a refusal says why";
  }
}

TEST_P(StrategyContract, TheTableHasTheModulesOwnKeysOrderAndTensors) {
  on_every_rank([](Held& held) {
    ASSERT_EQ(held.table.size(), held.own.size());
    for (size_t i = 0; i < held.own.size(); ++i) {
      const auto& row = held.table[i];
      EXPECT_EQ(row.name, held.own[i].first);
      EXPECT_EQ(row.tensor.unsafeGetTensorImpl(), held.own[i].second.unsafeGetTensorImpl()) << row.name;
      EXPECT_EQ(row.global_shape, held.before[i].sizes().vec());
      EXPECT_GE(row.held.begin, 0);
      EXPECT_LE(row.held.end, held.before[i].numel());
      EXPECT_EQ(row.held.end - row.held.begin, row.tensor.numel());
      EXPECT_EQ(row.trainable, held.own[i].second.requires_grad()) << row.name;
    }
  });
}

TEST_P(StrategyContract, EveryRankHasTheValuesOfRankZero) {
  on_every_rank([](Held& held) {
    for (size_t i = 0; i < held.own.size(); ++i)
      EXPECT_TRUE(torch::equal(held.own[i].second, held.before[i])) << held.own[i].first;
  });
}

// float32: the mean over up to four ranks, added in another order.
TEST_P(StrategyContract, GradientsAreTheMeanOverTheRanksOfWhatAccumulated) {
  on_every_rank([](Held& held) {
    std::vector<at::Tensor> expected;
    for (int64_t rank = 0; rank < held.ranks; ++rank) {
      Nested plain;
      for (int pass = 0; pass < 2; ++pass) (plain->forward(held.batch(rank)).pow(2).mean() / held.ranks).backward();
      const auto parameters = plain->parameters();
      expected.resize(parameters.size());
      for (size_t i = 0; i < parameters.size(); ++i) {
        const at::Tensor& gradient = parameters[i].grad();
        if (gradient.defined()) expected[i] = expected[i].defined() ? expected[i] + gradient : gradient;
      }
    }
    for (const GradientSync sync : {GradientSync::kAccumulate, GradientSync::kReduce}) {
      held.strategy->before_forward(sync);
      const auto loss = held.net->forward(held.batch(held.rank)).pow(2).mean();
      held.strategy->before_backward(loss, sync);
      loss.backward();
      held.strategy->after_backward();
    }
    EXPECT_NO_THROW(held.strategy->before_update());
    const auto ours = held.net->parameters();
    for (size_t i = 0; i < ours.size(); ++i) {
      ASSERT_EQ(ours[i].grad().defined(), expected[i].defined()) << i;
      if (held.ranks == 1) {
        EXPECT_TRUE(!expected[i].defined() || torch::equal(ours[i].grad(), expected[i])) << i;
      } else {
        EXPECT_TRUE(!expected[i].defined() || torch::allclose(ours[i].grad(), expected[i], 1e-5, 1e-6)) << i;
      }
    }
  });
}

TEST_P(StrategyContract, ALossThatDoesNotReachTheModelIsNoError) {
  on_every_rank([](Held& held) {
    const auto other = torch::ones({2}, torch::requires_grad());
    const auto loss = other.sum();
    held.strategy->before_backward(loss, GradientSync::kReduce);
    loss.backward();
    EXPECT_NO_THROW(held.strategy->after_backward());
    for (const auto& parameter : held.net->parameters()) EXPECT_FALSE(parameter.grad().defined());
  });
}

TEST_P(StrategyContract, APassThatFailedIsForgotten) {
  on_every_rank([](Held& held) {
    for (int attempt = 0; attempt < 2; ++attempt) {
      held.strategy->before_backward(held.net->forward(held.batch(held.rank)).sum(), GradientSync::kReduce);
      held.strategy->backward_failed();
      held.net->zero_grad();
    }
    const auto loss = held.net->forward(held.batch(0)).pow(2).mean();
    held.strategy->before_backward(loss, GradientSync::kReduce);
    loss.backward();
    EXPECT_NO_THROW(held.strategy->after_backward());
    for (const auto& parameter : held.net->parameters())
      EXPECT_TRUE(!parameter.requires_grad() || parameter.grad().isfinite().all().item<bool>());
  });
}

TEST_P(StrategyContract, SavesEveryTensorOnceUnderTheModulesKeys) {
  on_every_rank([](Held& held) {
    Collected saved;
    held.strategy->save(saved);
    std::vector<std::string> names, expected;
    for (const auto& tensor : saved.tensors) names.push_back(tensor.name);
    for (const auto& [name, tensor] : held.own) expected.push_back(name);
    EXPECT_EQ(names, expected);
    for (size_t i = 0; i < saved.tensors.size(); ++i) {
      const auto& tensor = saved.tensors[i];
      EXPECT_EQ(tensor.global_shape, held.before[i].sizes().vec());
      EXPECT_TRUE(
          torch::equal(tensor.local.flatten(), held.before[i].flatten().slice(0, tensor.held.begin, tensor.held.end)));
    }
  });
}

TEST_P(StrategyContract, LoadingBringsBackWhatWasSavedAndKeepsIdentities) {
  on_every_rank([](Held& held) {
    Collected saved;
    held.strategy->save(saved);
    std::map<std::string, at::Tensor> copies;
    for (const auto& tensor : saved.tensors) copies[tensor.name] = tensor.local.detach().clone();
    const torch::NoGradGuard no_grad;
    for (auto& [name, tensor] : held.own) tensor.zero_();
    Requested requested;
    held.strategy->load(requested);
    for (const auto& tensor : requested.tensors) at::Tensor(tensor.local).copy_(copies.at(tensor.name));
    for (size_t i = 0; i < held.own.size(); ++i)
      EXPECT_TRUE(torch::equal(held.own[i].second, held.before[i])) << held.own[i].first;
  });
}

TEST_P(StrategyContract, AfterTheEndTheModelGoesOnAlone) {
  on_every_rank([](Held& held) {
    held.strategy->end();
    held.net->forward(held.batch(held.rank)).pow(2).mean().backward();
    Nested plain;
    plain->forward(held.batch(held.rank)).pow(2).mean().backward();
    EXPECT_TRUE(torch::equal(held.net->head->weight.grad(), plain->head->weight.grad()));
    Collected saved;
    held.strategy->save(saved);
    EXPECT_EQ(saved.tensors.size(), held.own.size());
  });
}

TEST_P(StrategyContract, EveryMakeIsAStrategyOfItsOwn) {
  const auto first = GetParam().entry.make({}), second = GetParam().entry.make({});
  EXPECT_NE(first.get(), second.get());
}

INSTANTIATE_TEST_SUITE_P(Registered, StrategyContract, testing::ValuesIn(cases()), [](const auto& info) {
  return info.param.entry.name + "_" + std::to_string(info.param.ranks) + "_ranks";
});

}  // namespace
