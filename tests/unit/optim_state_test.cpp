// The optimizer's own state is right whenever somebody looks at it, and is found under the same parameters.
#include "tests/support/temporary_folder.h"
#include "tests/unit/optim_twin.h"

namespace {

using accelerate::Accelerator;
using torch::optim::AdamW;
using torch::optim::AdamWParamState;
using training::make_batch;
using training::Mlp;
using training::mse;

const AdamWParamState& state_of(torch::optim::Optimizer& optimizer, const at::Tensor& parameter) {
  return static_cast<AdamWParamState&>(*optimizer.state().at(parameter.unsafeGetTensorImpl()));
}

std::vector<const void*> identities(const std::vector<at::Tensor>& tensors) {
  std::vector<const void*> impls;
  for (const at::Tensor& tensor : tensors) impls.push_back(tensor.unsafeGetTensorImpl());
  return impls;
}

TEST(OptimizerState, HostStepCountsAreRightAfterEveryStep) {
  training::Side side([](const auto& p) { return std::make_unique<AdamW>(p); }, torch::kFloat);
  const auto update = accelerate::internal::make_update(side.optimizer());
  std::vector<int64_t> expected(side.parameters().size(), 0);
  for (int step = 0; step < 120; ++step) {
    side.set_gradients(step);
    update->step();
    for (size_t i = 0; i < expected.size(); ++i) {
      if (side.parameters()[i].grad().defined()) ++expected[i];
      const auto& all = side.optimizer().state();
      const auto found = all.find(side.parameters()[i].unsafeGetTensorImpl());
      const int64_t steps = found == all.end() ? 0 : static_cast<const AdamWParamState&>(*found->second).step();
      EXPECT_EQ(steps, expected[i]) << "parameter " << i << " after step " << step;
    }
  }
  EXPECT_EQ(expected[1], 80) << "a parameter whose gradient was missing at times";
  EXPECT_EQ(expected[3], 0);
  EXPECT_EQ(expected[4], 70);
}

TEST(OptimizerState, MomentsAreTheStockOnes) {
  training::Twin twin(
      [](const auto& p) { return std::make_unique<AdamW>(p, torch::optim::AdamWOptions(1e-2).amsgrad(true)); });
  for (int step = 0; step < 60; ++step) twin.step(step);
  for (const size_t i : {0, 1, 2, 4, 5}) {
    const auto& ours = state_of(twin.ours.optimizer(), twin.ours.parameters()[i]);
    const auto& stock = state_of(twin.stock.optimizer(), twin.stock.parameters()[i]);
    EXPECT_EQ(ours.step(), stock.step());
    EXPECT_LT(training::distance({ours.exp_avg()}, {stock.exp_avg()}), 1e-5);
    EXPECT_LT(training::distance({ours.exp_avg_sq()}, {stock.exp_avg_sq()}), 1e-5);
    EXPECT_LT(training::distance({ours.max_exp_avg_sq()}, {stock.max_exp_avg_sq()}), 1e-5);
  }
}

TEST(OptimizerState, PreparingAnOptimizerInTheMiddleOfTrainingGoesOn) {
  Mlp ours(1), plain(1);
  AdamW first(ours->parameters(), 1e-2), second(plain->parameters(), 1e-2);
  const auto [x, y] = make_batch(8, 1);
  const auto by_hand = [&x = x, &y = y](Mlp& net, AdamW& adamw) {
    adamw.zero_grad();
    mse(net(x), y).backward();
    adamw.step();
  };
  for (int i = 0; i < 10; ++i) {
    by_hand(ours, first);
    by_hand(plain, second);
  }
  Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(ours, first);
  for (int i = 0; i < 10; ++i) {
    optimizer.zero_grad();
    accelerator.backward(mse(model(x), y));
    optimizer.step();
    by_hand(plain, second);
  }
  EXPECT_EQ(state_of(first, ours->out->weight).step(), 20);
  EXPECT_LT(training::distance(ours->parameters(), plain->parameters()), 1e-12);
}

TEST(OptimizerState, AnOptimizerMovedIntoPrepareKeepsItsState) {
  Mlp net(1);
  AdamW adamw(net->parameters(), 1e-2);
  const auto [x, y] = make_batch(8, 1);
  mse(net(x), y).backward();
  adamw.step();
  Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(net, std::move(adamw));
  optimizer.zero_grad();
  accelerator.backward(mse(model(x), y));
  optimizer.step();
  EXPECT_EQ(state_of(optimizer, net->out->weight).step(), 2);
}

// As after a stock step: autograd notices that weights it saved have been overwritten, instead of mixing old and new.
TEST(Step, AGraphOverTheOldWeightsCannotBeWalkedAfterwards) {
  const std::vector<training::MakeOptimizer> makes{
      [](const auto& p) { return std::make_unique<AdamW>(p); },
      [](const auto& p) { return std::make_unique<torch::optim::Adam>(p); },
      [](const auto& p) { return std::make_unique<torch::optim::SGD>(p, torch::optim::SGDOptions(0.1).momentum(0.9)); },
      [](const auto& p) { return std::make_unique<torch::optim::RMSprop>(p); },
  };
  for (const auto& make : makes) {
    Mlp net(1);
    const std::shared_ptr<torch::optim::Optimizer> stock = make(net->parameters());
    Accelerator accelerator;
    auto [model, optimizer] = accelerator.prepare(net, stock);
    const auto [x, y] = make_batch(4, 1);
    const auto loss = mse(model(x), y);
    accelerator.backward(loss, {.retain_graph = true});
    optimizer.step();
    try {
      accelerator.backward(loss);
      ADD_FAILURE() << optimizer.core()->update_name() << ": the second backward mixed old and new weights";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr("modified by an inplace operation"));
    }
  }
}

TEST(ParameterIdentity, HoldsOverPrepareFiftyStepsAndLoading) {
  const accelerate::support::TemporaryFolder folder;
  Mlp net(1, torch::kFloat);
  AdamW adamw(net->parameters(), 1e-2);
  const auto before = identities(net->parameters());
  Accelerator accelerator({.mixed_precision = "bf16"});
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  EXPECT_EQ(identities(net->parameters()), before) << "after prepare";
  const auto [x, y] = make_batch(8, 1, torch::kFloat);
  const auto steps = [&, &model = model, &optimizer = optimizer, &x = x, &y = y](int count) {
    for (int i = 0; i < count; ++i) {
      accelerator.backward(mse(model(x), y));
      accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
      optimizer.step();
      optimizer.zero_grad();
    }
  };
  steps(50);
  EXPECT_EQ(identities(net->parameters()), before) << "after 50 steps";
  accelerator.save_model(model, folder.path().string());
  steps(1);
  accelerator.load_model(model, folder.path().string());
  EXPECT_EQ(identities(net->parameters()), before) << "after load_model";
  steps(1);
  EXPECT_EQ(adamw.state().size(), net->parameters().size()) << "no state under a second identity";
  for (const at::Tensor& parameter : net->parameters()) EXPECT_EQ(state_of(adamw, parameter).step(), 52);
  for (const auto& row : model.core()->table()) {
    EXPECT_THAT(before, testing::Contains(static_cast<const void*>(row.tensor.unsafeGetTensorImpl())));
  }
}

TEST(ParameterIdentity, HoldsWhenStorageIsExchangedUnderTheState) {
  Mlp net(1);
  AdamW adamw(net->parameters(), 1e-2);
  Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  const auto [x, y] = make_batch(8, 1);
  for (int i = 0; i < 4; ++i) {
    optimizer.zero_grad();
    accelerator.backward(mse(model(x), y));
    optimizer.step();
    if (i == 1) net->out->weight.set_data(net->out->weight.detach().clone());
  }
  EXPECT_EQ(state_of(adamw, net->out->weight).step(), 4);
}

TEST(ZeroGrad, DropsTheGradientsOfItsOwnParametersOnly) {
  Mlp first(1), second(2);
  Accelerator accelerator;
  auto [a, b, optimizer] = accelerator.prepare(first, second, torch::optim::SGD(first->parameters(), 0.1));
  const auto [x, y] = make_batch(4, 1);
  accelerator.backward(mse(a(x), y) + mse(b(x), y));
  const auto held = first->out->weight.grad();
  optimizer.zero_grad();
  EXPECT_FALSE(first->out->weight.grad().defined());
  EXPECT_TRUE(second->out->weight.grad().defined());
  EXPECT_NE(held.abs().sum().item<double>(), 0.0) << "a gradient that somebody kept is left as it was";
}

TEST(ZeroGrad, AGradientThatIsAViewCanBeDropped) {
  Mlp net(1);
  Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto bucket = torch::zeros({16}, torch::kDouble);
  net->out->weight.mutable_grad() = bucket.view({2, 8});
  EXPECT_NO_THROW(optimizer.zero_grad());
  EXPECT_FALSE(net->out->weight.grad().defined());
}

}  // namespace
