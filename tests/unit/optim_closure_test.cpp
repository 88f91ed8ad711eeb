// step(closure): LBFGS and every other optimizer, accumulation, and what a closure may do wrong.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::copy_of;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

torch::optim::LBFGSOptions lbfgs_options() {
  return torch::optim::LBFGSOptions(0.5).max_iter(4).line_search_fn("strong_wolfe");
}

TEST(Closure, LbfgsTrainsAsByHand) {
  const auto [x, y] = make_batch(8, 2);
  Accelerator accelerator;
  Mlp net(1), twin(1);
  torch::optim::LBFGS lbfgs(net->parameters(), lbfgs_options()), by_hand(twin->parameters(), lbfgs_options());
  auto [model, optimizer] = accelerator.prepare(net, lbfgs);
  for (int step = 0; step < 5; ++step) {
    int calls = 0, calls_by_hand = 0;
    const auto result = optimizer.step([&, &model = model, &optimizer = optimizer, &x = x, &y = y] {
      ++calls;
      EXPECT_TRUE(torch::GradMode::is_enabled());
      optimizer.zero_grad();
      const auto loss = mse(model(x), y);
      accelerator.backward(loss);
      return loss;
    });
    const auto loss = by_hand.step([&, &x = x, &y = y] {
      ++calls_by_hand;
      by_hand.zero_grad();
      auto value = mse(twin(x), y);
      value.backward();
      return value;
    });
    EXPECT_TRUE(result.applied());
    EXPECT_EQ(calls, calls_by_hand);
    EXPECT_GT(calls, 1);
    EXPECT_EQ(result.loss().item<double>(), loss.item<double>());
    EXPECT_TRUE(equal(copy_of(net->parameters()), copy_of(twin->parameters()))) << "step " << step;
  }
}

TEST(Closure, LbfgsWithoutOneSaysWhatToWrite) {
  Accelerator accelerator;
  Mlp net(1);
  torch::optim::LBFGS lbfgs(net->parameters());
  auto [model, optimizer] = accelerator.prepare(net, lbfgs);
  expect_error<UsageError>([&optimizer = optimizer] { optimizer.step(); },
                           {"optimizer.step", "LBFGS without one", "step(closure)", "optimizer.step([&]"});
}

template <class Optimizer, class Options>
void expect_same_as_plain(Options options) {
  const auto [x, y] = make_batch(8, 2);
  Accelerator accelerator;
  Mlp net(1), other(1);
  auto [model, with] = accelerator.prepare(net, Optimizer(net->parameters(), options));
  auto [plain_model, without] = accelerator.prepare(other, Optimizer(other->parameters(), options));
  for (int step = 0; step < 4; ++step) {
    const auto result = with.step([&, &with = with, &model = model, &x = x, &y = y] {
      with.zero_grad();
      const auto loss = mse(model(x), y);
      accelerator.backward(loss);
      return loss;
    });
    without.zero_grad();
    const auto loss = mse(plain_model(x), y);
    accelerator.backward(loss);
    EXPECT_FALSE(without.step().loss().defined());
    EXPECT_EQ(result.loss().template item<double>(), loss.template item<double>());
    EXPECT_FALSE(result.loss().requires_grad());
    EXPECT_TRUE(equal(copy_of(net->parameters()), copy_of(other->parameters())));
  }
}

TEST(Closure, OfFusedAndOtherOptimizersIsBackwardAndStep) {
  expect_same_as_plain<torch::optim::SGD>(torch::optim::SGDOptions(0.1).momentum(0.9));
  expect_same_as_plain<torch::optim::AdamW>(torch::optim::AdamWOptions(0.01));
  expect_same_as_plain<torch::optim::Adagrad>(torch::optim::AdagradOptions(0.01));
  expect_same_as_plain<torch::optim::RMSprop>(torch::optim::RMSpropOptions(0.01));
}

TEST(Closure, IsNotCalledOnAMicroStepThatDoesNotEndItsWindow) {
  const auto [x, y] = make_batch(4, 2);
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::LBFGS(net->parameters(), lbfgs_options()));
  int calls = 0;
  for (int step = 0; step < 6; ++step) {
    auto window = accelerator.accumulate(model);
    const auto before = copy_of(net->parameters());
    const auto result = optimizer.step([&, &model = model, &optimizer = optimizer, &x = x, &y = y] {
      ++calls;
      optimizer.zero_grad();
      const auto loss = mse(model(x), y);
      accelerator.backward(loss);
      return loss;
    });
    EXPECT_EQ(result.accumulated(), step % 3 != 2);
    EXPECT_EQ(equal(before, copy_of(net->parameters())), step % 3 != 2);
    EXPECT_EQ(result.loss().defined(), step % 3 == 2);
    EXPECT_EQ(calls > 0, step >= 2);
  }
}

TEST(Closure, ThatReturnsNoLossIsRefused) {
  const auto [x, y] = make_batch(4, 2);
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const auto before = copy_of(net->parameters());
  expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step([] { return at::Tensor(); }); },
                           {"optimizer.step", "undefined", "one element", "return loss;"});
  expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step([] { return torch::zeros({3}); }); },
                           {"optimizer.step", "3 elements", "one element", "return loss;"});
  EXPECT_TRUE(equal(before, copy_of(net->parameters())));
}

TEST(Closure, ItsExceptionComesOutAndTheNextStepGoesOn) {
  const auto [x, y] = make_batch(4, 2);
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::LBFGS(net->parameters(), lbfgs_options()));
  const auto before = copy_of(net->parameters());
  EXPECT_THROW(optimizer.step([]() -> at::Tensor { throw std::runtime_error("mine"); }), std::runtime_error);
  EXPECT_TRUE(equal(before, copy_of(net->parameters())));
  const auto result = optimizer.step([&, &model = model, &optimizer = optimizer, &x = x, &y = y] {
    optimizer.zero_grad();
    const auto loss = mse(model(x), y);
    accelerator.backward(loss);
    return loss;
  });
  EXPECT_TRUE(result.applied());
  EXPECT_FALSE(equal(before, copy_of(net->parameters())));
}

TEST(Closure, ASecondStepInOneWindowIsRefusedAsEver) {
  const auto [x, y] = make_batch(4, 2);
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  auto window = accelerator.accumulate(model);
  const auto closure = [&, &model = model, &optimizer = optimizer, &x = x, &y = y] {
    optimizer.zero_grad();
    const auto loss = mse(model(x), y);
    accelerator.backward(loss);
    return loss;
  };
  EXPECT_TRUE(optimizer.step(closure).applied());
  EXPECT_THROW(optimizer.step(closure), UsageError);
}

}  // namespace
