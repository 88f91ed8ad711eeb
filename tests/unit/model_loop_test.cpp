// Loops with more than one model, forward or entry point, compared with the same loop written by hand.
#include "tests/unit/training.h"

namespace {

using training::copy_of;
using training::make_batch;
using training::Mlp;
using training::MlpImpl;
using training::mse;

struct ActorCriticImpl : torch::nn::Module {
  ActorCriticImpl() {
    torch::manual_seed(5);
    body = register_module("body", torch::nn::Linear(4, 8));
    policy = register_module("policy", torch::nn::Linear(8, 2));
    value = register_module("value", torch::nn::Linear(8, 1));
    to(torch::kDouble);
  }
  at::Tensor act(const at::Tensor& x) { return policy(torch::tanh(body(x))); }
  at::Tensor judge(const at::Tensor& x) { return value(torch::tanh(body(x))); }
  torch::nn::Linear body{nullptr}, policy{nullptr}, value{nullptr};
};
TORCH_MODULE(ActorCritic);

TEST(ModelLoop, ActorCriticTrainsThroughTwoEntryPointsAndNoForward) {
  ActorCritic ours, plain;
  torch::optim::SGD our_sgd(ours->parameters(), 0.1), plain_sgd(plain->parameters(), 0.1);
  accelerate::Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(ours, our_sgd);
  for (uint64_t step = 0; step < 5; ++step) {
    const auto [x, y] = make_batch(6, step);
    const auto loss = model.call(&ActorCriticImpl::act, x).log_softmax(1).mean() +
                      model.call(&ActorCriticImpl::judge, x).pow(2).mean();
    accelerator.backward(loss);
    optimizer.step();
    optimizer.zero_grad();

    (plain->act(x).log_softmax(1).mean() + plain->judge(x).pow(2).mean()).backward();
    plain_sgd.step();
    plain_sgd.zero_grad();
  }
  EXPECT_LT(training::distance(ours->parameters(), plain->parameters()), 1e-14);
}

TEST(ModelLoop, TwoModelsOneLossTwoOptimizersInOneWindow) {
  Mlp our_generator(1), our_critic(2), generator(1), critic(2);
  torch::optim::SGD our_first(our_generator->parameters(), 0.1), our_second(our_critic->parameters(), 0.2);
  torch::optim::SGD first(generator->parameters(), 0.1), second(critic->parameters(), 0.2);
  accelerate::Accelerator accelerator;
  auto [g, c, g_optimizer, c_optimizer] = accelerator.prepare(our_generator, our_critic, our_first, our_second);
  for (uint64_t step = 0; step < 4; ++step) {
    const auto [x, y] = make_batch(6, step);
    {
      auto window = accelerator.accumulate(g, c);
      accelerator.backward(mse(c(g(x).repeat({1, 2})), y));
      EXPECT_TRUE(g_optimizer.step().applied());
      EXPECT_TRUE(c_optimizer.step().applied());
      g_optimizer.zero_grad();
      c_optimizer.zero_grad();
    }
    mse(critic(generator(x).repeat({1, 2})), y).backward();
    first.step();
    second.step();
    first.zero_grad();
    second.zero_grad();
  }
  EXPECT_LT(training::distance(our_generator->parameters(), generator->parameters()), 1e-14);
  EXPECT_LT(training::distance(our_critic->parameters(), critic->parameters()), 1e-14);
}

TEST(ModelLoop, AdversarialStepsLeaveTheOtherModelAlone) {
  Mlp generator(1), critic(2);
  torch::optim::AdamW critic_adam(critic->parameters(), 0.01);
  accelerate::Accelerator accelerator;
  auto [g, c, optimizer] = accelerator.prepare(generator, critic, critic_adam);
  const auto before = copy_of(generator->parameters());
  const auto [x, y] = make_batch(6, 1);
  accelerator.backward(mse(c(g(x).detach().repeat({1, 2})), y));
  optimizer.step();
  EXPECT_TRUE(training::equal(before, generator->parameters()));
  EXPECT_FALSE(generator->out->weight.grad().defined());
}

TEST(ModelLoop, TwoForwardsBeforeOneBackward) {
  Mlp ours(1), plain(1);
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(ours);
  const auto [x, y] = make_batch(6, 1);
  const auto [u, v] = make_batch(6, 2);
  const auto first = model(x);
  const auto second = model(u);
  accelerator.backward(mse(first, y) + mse(second, v));
  (mse(plain(x), y) + mse(plain(u), v)).backward();
  EXPECT_TRUE(torch::equal(ours->hidden->weight.grad(), plain->hidden->weight.grad()));
}

TEST(ModelLoop, TwoForwardsAndTwoBackwardsInReverseOrderAdd) {
  Mlp ours(1), plain(1);
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(ours);
  const auto [x, y] = make_batch(6, 1);
  const auto [u, v] = make_batch(6, 2);
  const auto first = mse(model(x), y);
  const auto second = mse(model(u), v);
  accelerator.backward(second);
  accelerator.backward(first);
  mse(plain(u), v).backward();
  mse(plain(x), y).backward();
  EXPECT_TRUE(torch::equal(ours->hidden->weight.grad(), plain->hidden->weight.grad()));
}

TEST(ModelLoop, InferenceThroughTheUnpreparedModuleInTheMiddleOfAStep) {
  Mlp ours(1), plain(1);
  torch::optim::SGD our_sgd(ours->parameters(), 0.1), plain_sgd(plain->parameters(), 0.1);
  accelerate::Accelerator accelerator;
  auto [model, optimizer] = accelerator.prepare(ours, our_sgd);
  const auto [x, y] = make_batch(6, 1);
  for (int step = 0; step < 3; ++step) {
    const auto output = model(x);
    {
      const torch::NoGradGuard no_grad;
      EXPECT_TRUE(torch::equal(ours(x), output)) << "the user's module is the prepared one";
    }
    accelerator.backward(mse(output, y));
    optimizer.step();
    optimizer.zero_grad();
    mse(plain(x), y).backward();
    plain_sgd.step();
    plain_sgd.zero_grad();
  }
  EXPECT_LT(training::distance(ours->parameters(), plain->parameters()), 1e-14);
}

TEST(ModelLoop, NamesOfParametersAndBuffersStayTheUsers) {
  torch::nn::Sequential net(torch::nn::Linear(4, 3), torch::nn::BatchNorm1d(3));
  std::vector<std::string> before, after;
  for (const auto& item : net->named_parameters()) before.push_back(item.key());
  for (const auto& item : net->named_buffers()) before.push_back(item.key());
  accelerate::Accelerator accelerator({.mixed_precision = "bf16"});
  auto model = accelerator.prepare(net);
  for (const auto& item : model->named_parameters()) after.push_back(item.key());
  for (const auto& item : model->named_buffers()) after.push_back(item.key());
  EXPECT_EQ(before, after);
  EXPECT_THAT(before, testing::Contains("1.running_mean"));
  std::vector<std::string> rows;
  for (const auto& row : model.core()->table()) rows.push_back(row.name);
  EXPECT_EQ(rows, before);
}

TEST(ModelLoop, BuffersAreUpdatedByTheForwardOfTheUsersModule) {
  torch::nn::BatchNorm1d norm(3);
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(norm);
  model(torch::full({4, 3}, 2.0f));
  EXPECT_TRUE(torch::allclose(norm->running_mean, torch::full({3}, 0.2f)));
}

TEST(ModelLoop, AModelWithoutParametersRunsAndIsClipped) {
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(torch::nn::Tanh());
  EXPECT_EQ(model(torch::zeros({2})).sum().item<float>(), 0.0f);
  EXPECT_EQ(accelerator.clip_grad_norm_(model, {.max_norm = 1.0}).norm.item<float>(), 0.0f);
}

TEST(ModelLoop, CopiesOfAHandleAreOneModel) {
  Mlp net(1);
  accelerate::Accelerator accelerator;
  auto model = accelerator.prepare(net);
  const accelerate::Model<MlpImpl> copy = model;
  EXPECT_EQ(copy.core(), model.core());
  const auto x = make_batch(2, 1).x;
  EXPECT_TRUE(torch::equal(copy(x), model(x)));
}

}  // namespace
