// backward(): the gradients of the hand-written loop, its options, and losses that cannot be differentiated.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

class Backward : public testing::Test {
 protected:
  Accelerator accelerator;
  Mlp net{1};
  accelerate::Model<training::MlpImpl> model = accelerator.prepare(net);
  training::Batch batch = make_batch(4, 1);
  at::Tensor loss() { return mse(model(batch.x), batch.y); }
  at::Tensor gradient() { return net->out->weight.grad(); }
};

TEST_F(Backward, GradientsAreThoseOfTheLoss) {
  Mlp plain(1);
  accelerator.backward(loss());
  mse(plain(batch.x), batch.y).backward();
  EXPECT_TRUE(torch::equal(gradient(), plain->out->weight.grad()));
}

TEST_F(Backward, DividesByTheStepsAndLeavesTheLossAlone) {
  Accelerator four({.gradient_accumulation_steps = 4});
  Mlp other(1);
  auto second = four.prepare(other);
  auto window = four.accumulate(second);
  const auto value = mse(second(batch.x), batch.y);
  const double before = value.item<double>();
  four.backward(value);
  EXPECT_EQ(value.item<double>(), before);
  accelerator.backward(loss());
  EXPECT_TRUE(torch::allclose(other->out->weight.grad() * 4, gradient(), 1e-14, 1e-15));
}

TEST_F(Backward, AOneElementTensorIsALoss) {
  accelerator.backward(loss().reshape({1, 1}));
  EXPECT_TRUE(gradient().defined());
}

TEST_F(Backward, RetainGraphAllowsASecondWalkAndTheDefaultDoesNot) {
  const auto value = loss();
  accelerator.backward(value, {.retain_graph = true});
  const auto once = gradient().clone();
  accelerator.backward(value);
  EXPECT_TRUE(torch::allclose(gradient(), 2 * once));
  EXPECT_THROW(accelerator.backward(value), c10::Error) << "LibTorch's own error: the graph is gone";
}

TEST_F(Backward, CreateGraphGivesGradientsThatCanBeDifferentiated) {
  Mlp plain(1);
  const auto penalty = [](const at::Tensor& g) { return g.pow(2).sum(); };
  accelerator.backward(loss(), {.create_graph = true});
  ASSERT_TRUE(gradient().requires_grad());
  const auto ours = torch::autograd::grad({penalty(gradient())}, {net->out->bias});
  mse(plain(batch.x), batch.y).backward({}, /*retain_graph=*/true, /*create_graph=*/true);
  const auto theirs = torch::autograd::grad({penalty(plain->out->weight.grad())}, {plain->out->bias});
  EXPECT_TRUE(torch::equal(ours[0], theirs[0]));
  EXPECT_NE(ours[0].abs().sum().item<double>(), 0.0);
  // A gradient with a graph that reaches its parameter is a cycle: it has to be broken by hand.
  net->zero_grad();
  plain->zero_grad();
}

TEST_F(Backward, WithoutCreateGraphGradientsHaveNone) {
  accelerator.backward(loss(), {.retain_graph = true});
  EXPECT_FALSE(gradient().requires_grad());
}

TEST_F(Backward, AnUndefinedLoss) {
  expect_error<UsageError>([&] { accelerator.backward(at::Tensor()); },
                           {"backward", "an undefined tensor", "one number computed from a model's parameters",
                            "Reduce the loss with mean() or sum()"});
}

TEST_F(Backward, ALossWithoutAGraph) {
  const std::vector<at::Tensor> losses{loss().detach(), torch::tensor(1.0), torch::tensor(1)};
  for (const at::Tensor& value : losses) {
    expect_error<UsageError>([&] { accelerator.backward(value); },
                             {"backward", "a tensor without a graph", "one number computed from a model's parameters",
                              "outside a no-grad guard"});
  }
  const torch::NoGradGuard no_grad;
  EXPECT_THROW(accelerator.backward(loss()), UsageError);
}

TEST_F(Backward, ALossOfSeveralNumbersNamesItsShape) {
  const auto output = model(batch.x);
  expect_error<UsageError>([&] { accelerator.backward(output); },
                           {"backward", "[4, 2]", "one number", "mean() or sum()"});
  expect_error<UsageError>([&] { accelerator.backward(output.slice(0, 0, 0)); },
                           {"backward", "[0, 2]", "one number", "mean() or sum()"});
  EXPECT_FALSE(gradient().defined()) << "a refused loss leaves no gradient";
}

TEST_F(Backward, ALossOfAnUnpreparedModelIsStillALoss) {
  Mlp stranger(2);
  accelerator.backward(mse(stranger(batch.x), batch.y));
  EXPECT_TRUE(stranger->out->weight.grad().defined());
  EXPECT_FALSE(gradient().defined());
}

TEST_F(Backward, FrozenLayersGetNoGradient) {
  net->hidden->weight.set_requires_grad(false);
  accelerator.backward(loss());
  EXPECT_FALSE(net->hidden->weight.grad().defined());
  EXPECT_TRUE(gradient().defined());
}

}  // namespace
