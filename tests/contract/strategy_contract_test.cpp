// What every registered strategy keeps: keys, identities, numbers and round trips, in every world it accepts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>
#include <set>

#include "accelerate/accelerate.h"
#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/strategy.h"

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
    torch::manual_seed(1);
    body = register_module("body", torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4)));
    head = register_module("head", torch::nn::Linear(4, 2));
    head->bias.set_requires_grad(false);
  }
  at::Tensor forward(const at::Tensor& x) { return head(body->forward(x)); }
  torch::nn::Sequential body{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Nested);

class StrategyContract : public testing::TestWithParam<StrategyEntry> {
 protected:
  void SetUp() override {
    if (const auto refusal = GetParam().refusal(accelerate::World{})) GTEST_SKIP() << *refusal;
    strategy = GetParam().make();
    for (const auto& item : net->named_parameters()) own.emplace_back(item.key(), item.value());
    for (const auto& item : net->named_buffers()) own.emplace_back(item.key(), item.value());
    for (const auto& [name, tensor] : own) before.push_back(tensor.detach().clone());
    table = strategy->attach({.module = *net, .group = {}, .precision = {}});
  }
  Nested net;
  std::vector<std::pair<std::string, at::Tensor>> own;  ///< the module's tensors under its own names
  std::vector<at::Tensor> before;
  std::unique_ptr<Strategy> strategy;
  accelerate::ParameterTable table;
};

TEST_P(StrategyContract, ARefusalHasAReason) {
  for (const int64_t size : {1, 2, 8}) {
    const auto refusal =
        GetParam().refusal(accelerate::World{.rank = 0, .size = size, .local_rank = 0, .local_size = size});
    EXPECT_NE(refusal, std::optional<std::string>("")) << "a refusal says why";
  }
}

TEST_P(StrategyContract, TheTableHasTheModulesOwnKeysOrderAndTensors) {
  ASSERT_EQ(table.size(), own.size());
  for (size_t i = 0; i < own.size(); ++i) {
    EXPECT_EQ(table[i].name, own[i].first);
    EXPECT_EQ(table[i].tensor.unsafeGetTensorImpl(), own[i].second.unsafeGetTensorImpl()) << own[i].first;
    EXPECT_EQ(table[i].global_shape, before[i].sizes().vec());
    EXPECT_GE(table[i].held.begin, 0);
    EXPECT_LE(table[i].held.end, before[i].numel());
    EXPECT_EQ(table[i].held.end - table[i].held.begin, table[i].tensor.numel());
    EXPECT_EQ(table[i].trainable, own[i].second.requires_grad()) << own[i].first;
  }
}

TEST_P(StrategyContract, AttachingChangesNoValueInOneProcess) {
  for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(torch::equal(own[i].second, before[i])) << own[i].first;
}

TEST_P(StrategyContract, GradientsOfOneProcessAreThoseOfAutograd) {
  Nested plain;
  const auto x = torch::randn({5, 3});
  for (const GradientSync sync : {GradientSync::kAccumulate, GradientSync::kReduce}) {
    strategy->before_forward(GradientSync::kReduce);
    const auto loss = net->forward(x).pow(2).mean();
    strategy->before_backward(loss, sync);
    loss.backward();
    strategy->after_backward();
    plain->forward(x).pow(2).mean().backward();
  }
  const auto ours = net->parameters(), theirs = plain->parameters();
  for (size_t i = 0; i < ours.size(); ++i) {
    ASSERT_EQ(ours[i].grad().defined(), theirs[i].grad().defined()) << i;
    EXPECT_TRUE(!ours[i].grad().defined() || torch::equal(ours[i].grad(), theirs[i].grad())) << i;
  }
}

TEST_P(StrategyContract, ALossThatDoesNotReachTheModelIsNoError) {
  const auto other = torch::ones({2}, torch::requires_grad());
  const auto loss = other.sum();
  strategy->before_backward(loss, GradientSync::kReduce);
  loss.backward();
  EXPECT_NO_THROW(strategy->after_backward());
  for (const auto& parameter : net->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST_P(StrategyContract, SavesEveryTensorOnceUnderTheModulesKeys) {
  Collected saved;
  strategy->save(saved);
  std::vector<std::string> names, expected;
  for (const auto& tensor : saved.tensors) names.push_back(tensor.name);
  for (const auto& [name, tensor] : own) expected.push_back(name);
  EXPECT_EQ(names, expected);
  for (size_t i = 0; i < saved.tensors.size(); ++i) {
    EXPECT_EQ(saved.tensors[i].global_shape, before[i].sizes().vec());
    EXPECT_TRUE(torch::equal(saved.tensors[i].local.flatten(),
                             before[i].flatten().slice(0, saved.tensors[i].held.begin, saved.tensors[i].held.end)));
  }
}

TEST_P(StrategyContract, LoadingBringsBackWhatWasSavedAndKeepsIdentities) {
  Collected saved;
  strategy->save(saved);
  std::map<std::string, at::Tensor> copies;
  for (const auto& tensor : saved.tensors) copies[tensor.name] = tensor.local.detach().clone();
  const torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : own) tensor.zero_();
  Requested requested;
  strategy->load(requested);
  for (const auto& tensor : requested.tensors) at::Tensor(tensor.local).copy_(copies.at(tensor.name));
  for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(torch::equal(own[i].second, before[i])) << own[i].first;
}

TEST_P(StrategyContract, EveryMakeIsAStrategyOfItsOwn) {
  const auto second = GetParam().make();
  EXPECT_NE(second.get(), strategy.get());
  torch::nn::Linear other(2, 2);
  EXPECT_EQ(second->attach({.module = *other, .group = {}, .precision = {}}).size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Registered, StrategyContract, testing::ValuesIn(entries()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
