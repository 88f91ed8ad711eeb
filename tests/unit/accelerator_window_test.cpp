// What a window's losses are divided by: the number of steps, the micro-steps it has, or counts of the user's.
#include <limits>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::GradientAccumulationPlugin;
using accelerate::UsageError;
using accelerate::WindowDivisor;
using training::copy_of;
using training::distance;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

/// The same sums in another order.
constexpr double kRounding = 1e-13;

std::vector<at::Tensor> gradients_of(const torch::nn::Module& module) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : module.parameters()) gradients.push_back(parameter.grad().clone());
  return gradients;
}

/// The gradient of the mean of the losses of the batches [first, last).
std::vector<at::Tensor> mean_gradient(int64_t first, int64_t last) {
  Mlp net(1);
  for (int64_t i = first; i < last; ++i) {
    const auto [x, y] = make_batch(3, static_cast<uint64_t>(i));
    (mse(net(x), y) / (last - first)).backward();
  }
  return gradients_of(*net);
}

Accelerator dividing_by_micro_steps(int64_t num_steps) {
  return Accelerator({.gradient_accumulation_plugin =
                          GradientAccumulationPlugin{.num_steps = num_steps, .divide_by = WindowDivisor::kMicroSteps}});
}

// Every length of a loader against every window: each update is the mean over the micro-steps it has come to.
TEST(DivideByMicroSteps, EachWindowIsTheMeanOverItsOwnMicroSteps) {
  for (int64_t num_steps = 1; num_steps <= 4; ++num_steps) {
    for (int64_t batches = 1; batches <= 7; ++batches) {
      Accelerator accelerator = dividing_by_micro_steps(num_steps);
      accelerate::DataLoader numbers(accelerate::TensorDataset(torch::arange(batches)), {.batch_size = 1});
      auto [model, loader] = accelerator.prepare(Mlp(1), numbers);
      for (int epoch = 0; epoch < 2; ++epoch) {
        int64_t begun = 0;
        for (auto& [number] : loader) {
          const auto window = accelerator.accumulate(model);
          const int64_t i = number.item<int64_t>();
          const auto [x, y] = make_batch(3, static_cast<uint64_t>(i));
          accelerator.backward(mse(model(x), y));
          EXPECT_EQ(accelerator.sync_gradients(), (i + 1) % num_steps == 0 || i + 1 == batches);
          if (!accelerator.sync_gradients()) continue;
          EXPECT_LT(distance(gradients_of(*model), mean_gradient(begun, i + 1)), kRounding)
              << "batches " << begun << " to " << i << " of " << batches << " in windows of " << num_steps;
          model->zero_grad();
          begun = i + 1;
        }
      }
    }
  }
}

TEST(DivideByMicroSteps, SeveralLossesInOneMicroStepAreDividedAlike) {
  Accelerator accelerator = dividing_by_micro_steps(3);
  auto [model, loader] = accelerator.prepare(
      Mlp(1), accelerate::DataLoader(accelerate::TensorDataset(torch::arange(2)), {.batch_size = 1}));
  for (auto& [number] : loader) {
    const auto window = accelerator.accumulate(model);
    for (int part = 0; part < 2; ++part) {
      const auto [x, y] = make_batch(3, static_cast<uint64_t>(2 * number.item<int64_t>() + part));
      accelerator.backward(2 * mse(model(x), y) / 2);
    }
  }
  auto expected = mean_gradient(0, 4);
  for (at::Tensor& gradient : expected) gradient *= 2;
  EXPECT_LT(distance(gradients_of(*model), expected), kRounding);
}

TEST(DivideByMicroSteps, AChangedNumberOfStepsCountsFromTheNextMicroStepAndKeepsTheMean) {
  Accelerator accelerator = dividing_by_micro_steps(8);
  auto model = accelerator.prepare(Mlp(1));
  for (int64_t i = 0; i < 4; ++i) {
    if (i == 2) accelerator.set_gradient_accumulation_steps(4);
    const auto window = accelerator.accumulate(model);
    const auto [x, y] = make_batch(3, static_cast<uint64_t>(i));
    accelerator.backward(mse(model(x), y));
    EXPECT_EQ(accelerator.sync_gradients(), i == 3);
  }
  EXPECT_LT(distance(gradients_of(*model), mean_gradient(0, 4)), kRounding);
}

TEST(AccumulationSteps, AreChangedBetweenBatches) {
  Accelerator accelerator({.gradient_accumulation_steps = 4});
  auto model = accelerator.prepare(Mlp(1));
  const auto sync = [&] {
    const auto window = accelerator.accumulate(model);
    return accelerator.sync_gradients();
  };
  EXPECT_EQ((std::vector<bool>{sync(), sync()}), (std::vector<bool>{false, false}));
  accelerator.set_gradient_accumulation_steps(3);  // as in the original, the count goes on: two of three
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 3);
  EXPECT_TRUE(sync());
  accelerator.set_gradient_accumulation_steps(1);
  EXPECT_TRUE(sync());
  EXPECT_TRUE(sync());
  const auto [x, y] = make_batch(3, 1);
  Mlp net(1);
  mse(net(x), y).backward();
  accelerator.backward(mse(model(x), y));  // no window needed any more, and nothing is divided
  EXPECT_EQ(distance(gradients_of(*model), gradients_of(*net)), 0.0);
}

// A check of the original: the plugin's number of steps, read through the Accelerator.
TEST(AccumulationSteps, ASetterAndItsGetter) {
  Accelerator accelerator, other;
  accelerator.set_gradient_accumulation_steps(4);
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 4);
  EXPECT_TRUE(accelerator.sync_gradients());
  EXPECT_EQ(other.gradient_accumulation_steps(), 1) << "each Accelerator has its own";
}

TEST(AccumulationSteps, RefusesNonsenseOpenWindowsAndTheEnd) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  auto model = accelerator.prepare(Mlp(1));
  for (const int64_t steps : {0, -3}) {
    expect_error<UsageError>([&] { accelerator.set_gradient_accumulation_steps(steps); },
                             {"set_gradient_accumulation_steps", std::to_string(steps), "1 or more", "Pass 1"});
  }
  {
    const auto window = accelerator.accumulate(model);
    expect_error<UsageError>(
        [&] { accelerator.set_gradient_accumulation_steps(3); },
        {"set_gradient_accumulation_steps", "guard of accumulate() is alive", "between two batches", "outside"});
  }
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 2);
  accelerator.end_training();
  EXPECT_THROW(accelerator.set_gradient_accumulation_steps(3), UsageError);
}

// Section 5.8: the pattern of the original's automatic accumulation.
TEST(AccumulationSteps, FollowABatchSizeThatShrinks) {
  const std::vector<std::pair<int64_t, int64_t>> expected{{16, 1}, {14, 1}, {12, 1}, {10, 1}, {9, 1}, {8, 2}, {7, 2},
                                                          {6, 2},  {5, 3},  {4, 4},  {3, 5},  {2, 8}, {1, 16}};
  Accelerator accelerator;
  int64_t batch_size = 16;
  for (const auto& [size, steps] : expected) {
    EXPECT_EQ(batch_size, size);
    accelerator.set_gradient_accumulation_steps(16 / batch_size);
    accelerator.free_memory();
    EXPECT_EQ(accelerator.gradient_accumulation_steps(), steps);
    Mlp net(1);
    auto model = accelerator.prepare(net);
    for (int64_t i = 1; i < steps; ++i) {
      const auto window = accelerator.accumulate(model);
      EXPECT_FALSE(accelerator.sync_gradients()) << "the count starts anew at size " << size;
    }  // "out of memory" before the window's end
    batch_size = static_cast<int64_t>(static_cast<double>(batch_size) * 0.9);
  }
}

class Counts : public testing::Test {
 protected:
  Accelerator accelerator;
  accelerate::Model<training::MlpImpl> model = accelerator.prepare(Mlp(1));
  at::Tensor loss() {
    const auto [x, y] = make_batch(3, 1);
    return mse(model(x), y);
  }
};

TEST_F(Counts, ThatCannotBeUsedAreRefused) {
  for (const double count : {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = count}); },
                             {"backward", ".num_items = ", "not negative", "tokens or samples"});
    expect_error<UsageError>([&] { accelerator.backward(loss(), {.weight = count}); },
                             {"backward", ".weight = ", "not negative", "tokens or samples"});
  }
  expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = torch::ones({2})}); },
                           {"backward", "shape [2]", "one element", "tokens or samples"});
  expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = at::Tensor()}); },
                           {"backward", "an undefined tensor", "one element", "tokens or samples"});
  expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = 2, .weight = 2}); },
                           {"backward", ".num_items and .weight", ".weight for a mean", "Keep the one"});
  EXPECT_FALSE(model->out->weight.grad().defined());
}

TEST_F(Counts, DoNotMixWithLossesThatHaveNone) {
  accelerator.backward(loss());
  const auto before = gradients_of(*model);
  expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = 2}); },
                           {"backward", "with one after others without", "for none", "Pass a count each time"});
  EXPECT_EQ(distance(gradients_of(*model), before), 0.0);
  model->zero_grad();
  accelerator.backward(loss(), {.num_items = 2});
  expect_error<UsageError>([&] { accelerator.backward(loss()); },
                           {"backward", "without one after others with", "for none", "Pass a count each time"});
  accelerator.backward(loss(), {.num_items = 0});
}

TEST_F(Counts, DoNotMixWithLossesThatHaveNoneAmongSeveralModels) {
  auto other = accelerator.prepare(Mlp(2));
  accelerator.backward(loss());
  const auto before = gradients_of(*model);
  expect_error<UsageError>([&] { accelerator.backward(loss(), {.num_items = 2}); },
                           {"backward", "without that may be about the same model", "for none", "Pass a count"});
  EXPECT_EQ(distance(gradients_of(*model), before), 0.0);
  // The other has no gradients, so that loss was not about it.
  const auto [x, y] = make_batch(3, 1);
  accelerator.backward(mse(other(x), y), {.num_items = 2});
  model->zero_grad();
  accelerator.backward(loss(), {.num_items = 2});
}

TEST_F(Counts, StartAnewAfterAStepAndAfterZeroGrad) {
  auto optimizer = accelerator.prepare(torch::optim::SGD(model->parameters(), 0.0));
  const auto expected = [&] {
    Mlp net(1);
    const auto [x, y] = make_batch(3, 1);
    (mse(net(x), y) / 5).backward();
    return gradients_of(*net);
  }();
  for (int i = 0; i < 3; ++i) {
    accelerator.backward(loss(), {.num_items = 5});
    EXPECT_LT(distance(gradients_of(*model), expected), kRounding) << i;
    if (i == 0) optimizer.step();
    optimizer.zero_grad();
  }
  accelerator.backward(loss(), {.num_items = 5});
  optimizer.zero_grad({.set_to_none = false});
  EXPECT_EQ(model->out->weight.grad().abs().max().item<double>(), 0.0);
  accelerator.backward(loss(), {.num_items = 5});
  EXPECT_LT(distance(gradients_of(*model), expected), kRounding) << "zeros that kept their memory";
  EXPECT_THROW(accelerator.backward(loss()), UsageError);
}

}  // namespace
