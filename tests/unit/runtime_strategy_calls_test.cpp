// What a strategy is told, and when: the order of its calls around forward and backward.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <any>
#include <string>
#include <vector>

#include "accelerate/accelerate.h"
#include "accelerate/strategy/strategy.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::GradientSync;
using ::testing::ElementsAre;

std::vector<std::string>& calls() {
  static std::vector<std::string> all;
  return all;
}

std::vector<std::string> taken() { return std::exchange(calls(), {}); }

/// Writes down what it is told; the numbers are those of one process.
class Diary final : public accelerate::Strategy {
 public:
  accelerate::ParameterTable attach(const accelerate::AttachContext& context) override {
    calls().push_back("attach");
    for (const auto& item : context.module.named_parameters()) {
      const at::Tensor& tensor = item.value();
      table_.push_back({item.key(), tensor, tensor.sizes().vec(), {0, tensor.numel()}, tensor.requires_grad()});
    }
    return table_;
  }
  void before_forward(GradientSync sync) override {
    calls().push_back(sync == GradientSync::kReduce ? "forward" : "local forward");
  }
  void before_backward(const at::Tensor& loss, GradientSync sync) override {
    had_gradients_ = table_.front().tensor.grad().defined();
    losses.push_back(loss.item<double>());
    calls().push_back(sync == GradientSync::kReduce ? "reduce" : "accumulate");
  }
  void after_backward() override {
    EXPECT_TRUE(table_.front().tensor.grad().defined());
    calls().push_back(had_gradients_ ? "added" : "fresh");
  }
  void backward_failed() noexcept override { calls().push_back("failed"); }
  void end() noexcept override { calls().push_back("end"); }
  void save(accelerate::StateWriter&) const override { calls().push_back("save"); }
  void load(accelerate::StateReader&) override { calls().push_back("load"); }

  static inline std::vector<double> losses;

 private:
  accelerate::ParameterTable table_;
  bool had_gradients_ = false;
};

accelerate::StrategyEntry diary() {
  return {"diary", 10, [](const accelerate::World&) -> std::optional<std::string> { return std::nullopt; },
          [](const std::any&) -> std::unique_ptr<accelerate::Strategy> { return std::make_unique<Diary>(); }};
}

struct StrategyCalls : ::testing::Test {
  void SetUp() override {
    calls().clear();
    Diary::losses.clear();
  }
};

TEST_F(StrategyCalls, GradientsAreReducedOnceAWindowAndAccumulatedBefore) {
  Accelerator accelerator({.gradient_accumulation_steps = 3, .extensions = {.strategies = {diary()}}});
  training::Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  EXPECT_THAT(taken(), ElementsAre("attach"));
  const auto [x, y] = training::make_batch(2, 7);
  for (int step = 0; step < 4; ++step) {
    const auto window = accelerator.accumulate(model);
    accelerator.backward(training::mse(model(x), y));
    optimizer.step();
    optimizer.zero_grad();
  }
  EXPECT_THAT(taken(), ElementsAre("local forward", "accumulate", "fresh", "local forward", "accumulate", "added",
                                   "forward", "reduce", "added", "local forward", "accumulate", "fresh"));
}

TEST_F(StrategyCalls, WithoutAccumulationEveryBackwardReduces) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  training::Mlp net(1);
  auto model = accelerator.prepare(net);
  const auto [x, y] = training::make_batch(2, 7);
  for (int step = 0; step < 2; ++step) accelerator.backward(training::mse(model(x), y));
  EXPECT_THAT(taken(), ElementsAre("attach", "forward", "reduce", "fresh", "forward", "reduce", "added"));
}

TEST_F(StrategyCalls, TheLossIsTheOneThatAutogradRunsFrom) {
  Accelerator accelerator({.gradient_accumulation_steps = 4, .extensions = {.strategies = {diary()}}});
  training::Mlp net(1);
  auto model = accelerator.prepare(net);
  const auto [x, y] = training::make_batch(2, 7);
  const auto window = accelerator.accumulate(model);
  const auto loss = training::mse(model(x), y);
  accelerator.backward(loss);
  EXPECT_THAT(Diary::losses, ElementsAre(loss.item<double>() / 4));
}

TEST_F(StrategyCalls, EveryModelIsArmedBeforeAutogradRuns) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  training::Mlp one(1), two(2);
  auto [first, second] = accelerator.prepare(one, two);
  const auto [x, y] = training::make_batch(2, 7);
  const auto loss = training::mse(first(x), y) + training::mse(second(x), y);
  taken();
  accelerator.backward(loss);
  EXPECT_THAT(taken(), ElementsAre("reduce", "reduce", "fresh", "fresh"));
}

TEST_F(StrategyCalls, InferenceAfterTrainingIsNotAnnounced) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  training::Mlp net(1);
  auto model = accelerator.prepare(net);
  taken();
  accelerator.end_training();
  model(training::make_batch(2, 7).x);
  EXPECT_THAT(taken(), ElementsAre("end"));
}

TEST_F(StrategyCalls, NothingIsAskedForABackwardThatIsRefused) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  training::Mlp net(1);
  auto model = accelerator.prepare(net);
  taken();
  EXPECT_THROW(accelerator.backward(torch::zeros({})), accelerate::UsageError);
  EXPECT_THAT(taken(), ElementsAre());
}

TEST_F(StrategyCalls, EveryModelHearsThatAutogradFailed) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  training::Mlp one(1), two(2);
  auto [first, second] = accelerator.prepare(one, two);
  const auto [x, y] = training::make_batch(2, 7);
  const auto loss = training::mse(first(x), y) + training::mse(second(x), y);
  loss.backward();
  taken();
  EXPECT_ANY_THROW(accelerator.backward(loss)) << "the graph is gone";
  EXPECT_THAT(taken(), ElementsAre("reduce", "reduce", "failed", "failed"));
}

TEST_F(StrategyCalls, GuardsDecideForTheirModelAndTheInnermostCounts) {
  Accelerator accelerator({.extensions = {.strategies = {diary()}}});
  auto model = accelerator.prepare(training::Mlp(1));
  const auto [x, y] = training::make_batch(2, 7);
  taken();
  {
    const auto local = accelerator.no_sync(model);
    accelerator.backward(training::mse(model(x), y));
    const auto now = accelerator.trigger_sync_in_backward(model);
    accelerator.backward(training::mse(model(x), y));
  }
  accelerator.backward(training::mse(model(x), y));
  EXPECT_THAT(taken(), ElementsAre("local forward", "accumulate", "fresh", "forward", "reduce", "added", "forward",
                                   "reduce", "added"));
}

}  // namespace
