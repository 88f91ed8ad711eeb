// prepare() refuses with place, got, expected and remedy, and then nothing has been prepared or changed.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::expect_error;
using training::learning_rate;
using training::Mlp;

class PrepareRefuses : public testing::Test {
 protected:
  Accelerator accelerator;
  Mlp net{1};
  torch::optim::SGD sgd{net->parameters(), 1.0};
};

TEST_F(PrepareRefuses, AnEmptyHolder) {
  Mlp empty{nullptr};
  expect_error<UsageError>([&] { accelerator.prepare(empty); },
                           {"prepare", "empty holder", "one that was built", "Build it"});
}

TEST_F(PrepareRefuses, ANullPointerToAModule) {
  const std::shared_ptr<training::MlpImpl> null;
  expect_error<UsageError>([&] { accelerator.prepare(net, null); },
                           {"prepare", "empty holder or pointer", "one that was built", "Build it"});
}

TEST_F(PrepareRefuses, ANullPointerToAnOptimizer) {
  const std::shared_ptr<torch::optim::AdamW> null;
  expect_error<UsageError>([&] { accelerator.prepare(net, null); },
                           {"prepare", "empty holder or pointer", "one that was built", "Build it"});
}

TEST_F(PrepareRefuses, AMovedFromOptimizer) {
  auto [model, optimizer] = accelerator.prepare(net, std::move(sgd));
  expect_error<UsageError>([&] { accelerator.prepare(sgd); },
                           {"prepare", "moved from", "the optimizer that will step", "by reference"});
}

TEST_F(PrepareRefuses, AnOptimizerOfNoPreparedModel) {
  Mlp stranger(2);
  torch::optim::SGD other(stranger->parameters(), 0.1);
  expect_error<UsageError>([&] { accelerator.prepare(net, other); },
                           {"prepare", "parameter 0 of group 0, Double [8, 4]", "models given in this call or before",
                            "Give the model to prepare()"});
}

TEST_F(PrepareRefuses, AnOptimizerWithOneForeignParameterNamesItsPlace) {
  sgd.add_param_group(torch::optim::OptimizerParamGroup(
      {net->out->bias.detach().clone().requires_grad_(), torch::zeros({3}).requires_grad_()}));
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd); },
                           {"prepare", "parameter 0 of group 1, Double [2]", "models", "register a free tensor"});
}

TEST_F(PrepareRefuses, AScheduleWithoutOptimizer) {
  expect_error<UsageError>([&] { accelerator.prepare(net, accelerate::constant()); },
                           {"prepare", "0 optimizers", "exactly one optimizer", "Scheduler(optimizer, schedule)"});
}

TEST_F(PrepareRefuses, AScheduleWithTwoOptimizers) {
  torch::optim::AdamW adamw(net->parameters());
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd, adamw, accelerate::constant()); },
                           {"prepare", "2 optimizers", "exactly one optimizer", "Scheduler(optimizer, schedule)"});
}

TEST_F(PrepareRefuses, AnEmptySchedule) {
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd, accelerate::Schedule()); },
                           {"prepare", "empty holder", "one that was built", "Build it"});
}

TEST_F(PrepareRefuses, ASchedulerWhoseOptimizerIsNotPrepared) {
  accelerate::Scheduler scheduler(sgd, accelerate::constant());
  expect_error<UsageError>(
      [&] { accelerator.prepare(net, scheduler); },
      {"prepare", "not given to prepare()", "its optimizer by reference, in this call or before", "Give both"});
}

TEST_F(PrepareRefuses, HandlesOfAnotherAccelerator) {
  Accelerator other;
  const auto [x, y] = training::make_batch(4, 1);
  auto [model, optimizer, loader] =
      other.prepare(net, sgd, accelerate::DataLoader(accelerate::TensorDataset(x, y), {.batch_size = 2}));
  expect_error<UsageError>([&, &model = model] { accelerator.prepare(model); },
                           {"prepare", "that Accelerator's handle", "own handle", "Pass the original model"});
  expect_error<UsageError>([&, &optimizer = optimizer] { accelerator.prepare(net, optimizer); },
                           {"prepare", "that Accelerator's handle", "own handle", "Pass the original optimizer"});
  expect_error<UsageError>([&, &loader = loader] { accelerator.prepare(loader); },
                           {"prepare", "that Accelerator's handle", "own handle", "Pass the original data loader"});
}

TEST_F(PrepareRefuses, ASchedulerHandleOfAnotherAccelerator) {
  Accelerator other;
  auto [model, optimizer, scheduler] = other.prepare(net, sgd, accelerate::constant());
  expect_error<UsageError>([&, &scheduler = scheduler] { accelerator.prepare(net, scheduler); },
                           {"prepare", "not given to prepare()", "its optimizer by reference", "Give both"});
}

TEST_F(PrepareRefuses, ASchedulerOverAnOptimizerGivenByValue) {
  accelerate::Scheduler scheduler(sgd, accelerate::constant());
  expect_error<UsageError>([&] { accelerator.prepare(net, std::move(sgd), scheduler); },
                           {"prepare", "an optimizer given by value", "its optimizer by reference", "as an lvalue"});
  EXPECT_EQ(sgd.param_groups().size(), 1u) << "the optimizer was not taken";
}

// All or nothing. What shows that a model was not registered: an optimizer over it is refused afterwards.

TEST_F(PrepareRefuses, NothingIsRegisteredWhenALaterItemFails) {
  Mlp stranger(2), empty{nullptr};
  torch::optim::SGD other(stranger->parameters(), 0.1);
  accelerate::Scheduler unbound(other, accelerate::constant());
  const std::vector<std::function<void()>> failing{
      [&] { accelerator.prepare(net, other); },
      [&] { accelerator.prepare(net, sgd, unbound); },
      [&] { accelerator.prepare(net, empty); },
      [&] { accelerator.prepare(net, accelerate::constant()); },
      [&] { accelerator.prepare(net, sgd, accelerate::Schedule()); },
  };
  for (size_t i = 0; i < failing.size(); ++i) {
    EXPECT_THROW(failing[i](), UsageError) << i;
    EXPECT_THROW(accelerator.prepare(sgd), UsageError) << "call " << i << " registered the model";
  }
  EXPECT_NO_THROW(accelerator.prepare(net, sgd));
}

TEST_F(PrepareRefuses, LearningRatesStayWhenAnotherItemFails) {
  Mlp stranger(2);
  torch::optim::SGD other(stranger->parameters(), 0.1);
  accelerate::Scheduler unbound(other, accelerate::constant());
  const auto warmup = accelerate::constant({.warmup_steps = 10});
  EXPECT_THROW(accelerator.prepare(warmup, net, sgd, unbound), UsageError);
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
  EXPECT_THROW(accelerator.prepare(warmup, net, sgd, accelerate::Schedule()), UsageError);
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
}

TEST_F(PrepareRefuses, ASchedulesOwnExceptionComesOutAndNothingIsRegistered) {
  const auto broken = [](int64_t) -> double { throw std::runtime_error("the schedule's own"); };
  EXPECT_THROW(accelerator.prepare(net, sgd, broken), std::runtime_error);
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
  EXPECT_THROW(accelerator.prepare(sgd), UsageError) << "the model was registered";
}

TEST_F(PrepareRefuses, HandlesThatWereMovedFrom) {
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  auto loader = accelerator.prepare(accelerate::DataLoader(accelerate::TensorDataset(torch::zeros({4, 4})), {}));
  const auto kept_model = std::move(model);
  const auto kept_optimizer = std::move(optimizer);
  const auto kept_loader = std::move(loader);
  expect_error<UsageError>([&, &model = model] { accelerator.prepare(model); },
                           {"prepare", "empty", "one that was built", "Build it"});
  expect_error<UsageError>([&, &optimizer = optimizer] { accelerator.prepare(optimizer); },
                           {"prepare", "empty", "one that was built", "Build it"});
  expect_error<UsageError>([&] { accelerator.prepare(loader); },
                           {"prepare", "empty", "one that was built", "Build it"});
}

TEST_F(PrepareRefuses, AScheduleThatThrowsLeavesTheOptimizerToItsOwner) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters(), 0.5);
  const accelerate::Schedule broken = [](int64_t) -> double { throw std::runtime_error("no rate"); };
  EXPECT_THROW(accelerator.prepare(net, std::move(adamw), broken), std::runtime_error);
  ASSERT_EQ(adamw.param_groups().size(), 1u);
  EXPECT_EQ(adamw.param_groups()[0].options().get_lr(), 0.5);
}

}  // namespace
