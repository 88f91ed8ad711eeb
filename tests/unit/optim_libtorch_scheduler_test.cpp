// LibTorch's own schedulers, prepared.
#include <cmath>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::Scheduler;
using accelerate::UsageError;
using torch::optim::ReduceLROnPlateauScheduler;
using torch::optim::SGD;
using torch::optim::StepLR;
using training::expect_error;
using training::learning_rate;
using training::Mlp;

/// A user's own: divides by the number of steps.
class Harmonic : public torch::optim::LRScheduler {
 public:
  using LRScheduler::LRScheduler;

 private:
  std::vector<double> get_lrs() override {
    return std::vector<double>(get_current_lrs().size(), 1.0 / (1.0 + step_count_));
  }
};

class LibTorchSchedulers : public testing::Test {
 protected:
  Accelerator accelerator{{.gradient_accumulation_steps = 2}};
  Mlp net;
  SGD sgd{net->parameters(), 1.0};
};

TEST_F(LibTorchSchedulers, MoveWithTheUpdates) {
  StepLR given(sgd, 1, 0.5);
  auto [model, optimizer, scheduler] = accelerator.prepare(net, sgd, given);
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(scheduler)>, Scheduler>);
  std::vector<double> rates;
  for (int i = 0; i < 6; ++i) {
    auto window = accelerator.accumulate(model);
    optimizer.step();
    scheduler.step();
    rates.push_back(learning_rate(sgd));
  }
  // LibTorch's StepLR lowers the rate one step later than Python's; step_lr() does as Python's.
  EXPECT_EQ(rates, (std::vector<double>{1, 1, 1, 0.5, 0.5, 0.25}));
  EXPECT_EQ(scheduler.last_epoch(), 3);
}

TEST_F(LibTorchSchedulers, MayBeBorrowedMovedOrShared) {
  StepLR borrowed(sgd, 1, 0.5);
  auto [model, optimizer, first, second, third] =
      accelerator.prepare(net, sgd, borrowed, Harmonic(sgd), std::make_shared<StepLR>(sgd, 1u, 0.5));
  for (const Scheduler& scheduler : {first, second, third}) {
    EXPECT_TRUE(scheduler.is_prepared());
    scheduler.step();
    EXPECT_EQ(scheduler.last_epoch(), 1);
  }
}

TEST_F(LibTorchSchedulers, TheSameOneIsTheSamePreparedOne) {
  StepLR given(sgd, 1, 0.5);
  auto [model, optimizer, first, second] = accelerator.prepare(net, sgd, given, given);
  const Scheduler third = accelerator.prepare(given);
  EXPECT_EQ(first.core(), second.core());
  EXPECT_EQ(first.core(), third.core());
}

TEST_F(LibTorchSchedulers, FindTheirOptimizerAmongSeveralAndLeaveRatesAlone) {
  Mlp other(2);
  SGD second(other->parameters(), 0.25);
  StepLR of_second(second, 1, 0.5), of_first(sgd, 1, 0.5);
  auto [m1, m2, o1, o2] = accelerator.prepare(net, other, sgd, second);
  auto [s2, s1] = accelerator.prepare(of_second, of_first);
  EXPECT_EQ(learning_rate(sgd), 1.0);
  EXPECT_EQ(learning_rate(second), 0.25);
  for (int i = 0; i < 2; ++i) s2.step();
  EXPECT_EQ(s2.get_last_lr(), std::vector<double>{0.125});
  EXPECT_EQ(s1.get_last_lr(), std::vector<double>{1.0});
}

TEST_F(LibTorchSchedulers, WithoutTheirOptimizerAreRefused) {
  Mlp other(2);
  SGD second(other->parameters(), 1.0);
  StepLR stranger(second, 1);
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd, stranger); },
                           {"prepare", "an optimizer that was not given to prepare()", "by reference", "Give both"});
  expect_error<UsageError>([&] { accelerator.prepare_scheduler(stranger); },
                           {"prepare", "an optimizer that was not given to prepare()", "by reference", "Give both"});
  StepLR own(sgd, 1);
  expect_error<UsageError>([&] { accelerator.prepare(net, std::move(sgd), own); },
                           {"prepare", "an optimizer given by value", "by reference", "as an lvalue"});
  EXPECT_EQ(sgd.param_groups().size(), 1u);
  expect_error<UsageError>([&] { accelerator.prepare(net, sgd, std::shared_ptr<StepLR>()); },
                           {"prepare", "an empty holder", "one that was built", "Build it"});
}

TEST_F(LibTorchSchedulers, StateIsTheirCountAndTheRates) {
  SGD twin(net->parameters(), 1.0);
  const auto make = [](SGD& optimizer) { return std::make_shared<StepLR>(optimizer, 2u, 0.5); };
  auto [model, first, second] = accelerator.prepare(net, sgd, twin);
  const Scheduler one = accelerator.prepare(make(sgd)), other = accelerator.prepare(make(twin));
  for (int i = 0; i < 5; ++i) one.step();
  other.load_state_dict(one.state_dict());
  EXPECT_EQ(other.state_dict(), one.state_dict());
  for (int i = 0; i < 4; ++i) {
    one.step();
    other.step();
    EXPECT_EQ(one.get_last_lr(), other.get_last_lr());
  }
  EXPECT_LT(learning_rate(twin), 0.2);
}

TEST_F(LibTorchSchedulers, APlateauBelongsToTheOneOptimizerOfTheCall) {
  ReduceLROnPlateauScheduler plateau(sgd, ReduceLROnPlateauScheduler::min, /*factor=*/0.5, /*patience=*/0);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  expect_error<UsageError>([&] { accelerator.prepare_scheduler(plateau); },
                           {"prepare", "0 optimizers in the call", "exactly one optimizer", "Scheduler(optimizer"});
  const Scheduler scheduler = accelerator.prepare_scheduler(plateau, optimizer);
  scheduler.step(1.0);
  scheduler.step(1.0);
  EXPECT_EQ(learning_rate(sgd), 0.5);
  expect_error<UsageError>([&] { scheduler.step(); },
                           {"scheduler.step", "step() without one", "step(metric)", "validation"});
  expect_error<UsageError>([&] { scheduler.state_dict(); }, {"scheduler.state_dict", "ReduceLROnPlateauScheduler",
                                                             "can be saved", "accelerate::ReduceLROnPlateau"});
}

TEST_F(LibTorchSchedulers, APlateauOverAnOptimizerThatIsMovedIsRefused) {
  ReduceLROnPlateauScheduler plateau(sgd);
  expect_error<UsageError>([&] { accelerator.prepare(net, std::move(sgd), plateau); },
                           {"prepare", "an optimizer given by value", "by reference", "as an lvalue"});
}

TEST(PrepareScheduler, TakesEverySchedulerAndGivesAHandle) {
  Accelerator accelerator;
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  Scheduler bound(sgd, accelerate::linear({.total_steps = 2}));
  const Scheduler one = accelerator.prepare_scheduler(bound);
  const Scheduler two = accelerator.prepare_scheduler([](int64_t) { return 0.5; }, optimizer);
  const Scheduler three = accelerator.prepare_scheduler(accelerate::ReduceLROnPlateau{}, optimizer);
  for (const Scheduler& scheduler : {one, two, three}) EXPECT_TRUE(scheduler.is_prepared());
  EXPECT_EQ(one.core(), bound.core());
  EXPECT_EQ(learning_rate(sgd), 0.5);
}

TEST(PrepareScheduler, WithoutItsOptimizerIsRefused) {
  Accelerator accelerator;
  Mlp net;
  SGD sgd(net->parameters(), 1.0);
  expect_error<UsageError>([&] { accelerator.prepare_scheduler(Scheduler(sgd, accelerate::constant())); },
                           {"prepare", "an optimizer that was not given to prepare()", "by reference", "Give both"});
  expect_error<UsageError>([&] { accelerator.prepare_scheduler(accelerate::constant()); },
                           {"prepare", "0 optimizers", "exactly one optimizer", "Scheduler(optimizer, schedule)"});
}

}  // namespace
