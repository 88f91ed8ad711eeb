// Updates of which the host does not know yet whether they were skipped: nobody waits who does not ask, and schedules
// and counts are right before they matter.
#include <limits>

#include "accelerate/optim/update.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::GradScalerKwargs;
using accelerate::StepResult;
using training::make_batch;
using training::Mlp;
using training::mse;

/// A device that answers when it is told to.
class Device final : public accelerate::internal::PendingOutcome {
 public:
  bool known() override { return known_; }
  bool skipped() override {
    ++waits_;
    known_ = true;
    return skips_;
  }
  void answers(bool skips) {
    skips_ = skips;
    known_ = true;
  }
  void will_answer(bool skips) { skips_ = skips; }
  int waits() const { return waits_; }

 private:
  bool known_ = false, skips_ = false;
  int waits_ = 0;
};

class Pending : public testing::Test {
 protected:
  Accelerator accelerator{{.cpu = true}};
  Mlp net{1};
  /// The rate is 1 / (1 + steps).
  std::tuple<accelerate::Model<training::MlpImpl>, accelerate::Optimizer, accelerate::Scheduler> prepared =
      accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1.0),
                          accelerate::Schedule([](int64_t step) { return 1.0 / static_cast<double>(1 + step); }));
  accelerate::Optimizer& optimizer = std::get<1>(prepared);
  accelerate::Scheduler& scheduler = std::get<2>(prepared);
  std::shared_ptr<Device> device = std::make_shared<Device>();

  /// An update was queued whose outcome is the device's.
  void queue_update() { optimizer.core()->record(StepResult(device)); }
  double rate() { return optimizer.core()->inner().param_groups()[0].options().get_lr(); }
};

TEST_F(Pending, AScheduleKeepsTheHandleAndDoesNotWait) {
  queue_update();
  scheduler.step();
  EXPECT_EQ(device->waits(), 0);
  EXPECT_EQ(rate(), 1.0) << "not known yet";
  EXPECT_FALSE(optimizer.core()->rates_are_uploaded());
  EXPECT_EQ(scheduler.get_last_lr().at(0), 0.5) << "whoever asks waits";
  EXPECT_EQ(device->waits(), 1);
  EXPECT_EQ(scheduler.last_epoch(), 1);
}

TEST_F(Pending, ASkippedUpdateIsNoStepOfTheSchedule) {
  device->will_answer(true);
  queue_update();
  scheduler.step();
  EXPECT_EQ(scheduler.get_last_lr().at(0), 1.0);
  EXPECT_EQ(scheduler.last_epoch(), 0);
}

TEST_F(Pending, WhatIsKnownIsFollowedAtOnce) {
  queue_update();
  device->answers(false);
  scheduler.step();
  EXPECT_EQ(rate(), 0.5);
}

TEST_F(Pending, TheNextUpdateHasTheRightRate) {
  queue_update();
  scheduler.step();
  accelerator.backward(mse(std::get<0>(prepared)(make_batch(4, 1).x), make_batch(4, 1).y));
  const at::Tensor before = net->out->bias.detach().clone();
  optimizer.step();
  EXPECT_EQ(device->waits(), 1);
  // The first step of AdamW is as long as the rate.
  EXPECT_NEAR((net->out->bias.detach() - before * (1 - 0.5 * 0.01)).abs().max().item<double>(), 0.5, 1e-6);
  scheduler.step();
  EXPECT_EQ(rate(), 1.0 / 3);
}

TEST_F(Pending, LookingAtTheOptimizerWaits) {
  const std::vector<std::function<void()>> looks{
      [&] { optimizer.param_groups(); }, [&] { static_cast<void>(static_cast<torch::optim::Optimizer&>(optimizer)); },
      [&] { scheduler.state_dict(); },   [&] { optimizer.core()->resolve(); },
      [&] { queue_update(); },
  };
  for (const auto& look : looks) {
    const double before = rate();
    device = std::make_shared<Device>();
    queue_update();
    scheduler.step();
    EXPECT_EQ(rate(), before);
    look();
    EXPECT_LT(rate(), before);
    optimizer.core()->resolve();
  }
}

TEST_F(Pending, EndingTheTrainingWritesDownWhatTheDeviceDecided) {
  queue_update();
  scheduler.step();
  auto& stock = optimizer.core()->inner();
  accelerator.end_training();
  EXPECT_EQ(stock.param_groups()[0].options().get_lr(), 0.5);
}

TEST_F(Pending, AScheduleThatThrowsIsHeardAndTheOthersGoOn) {
  auto broken = accelerator.prepare(accelerate::Scheduler(optimizer, accelerate::Schedule([](int64_t step) {
                                                            if (step > 0)
                                                              throw std::runtime_error("a schedule of the user's");
                                                            return 1.0;
                                                          })));
  queue_update();
  broken.step();
  scheduler.step();
  EXPECT_THROW(optimizer.core()->resolve(), std::runtime_error);
  EXPECT_EQ(scheduler.last_epoch(), 1);
  EXPECT_EQ(broken.last_epoch(), 0);
}

/// fp16 on a CPU whose parameters have their counters where they are: what the device decides is known at once.
TEST(PendingWithAScale, SkippedUpdatesAreCountedByNobody) {
  for (const auto counters :
       {accelerate::internal::Counters::kWithParameters, accelerate::internal::Counters::kOnDevice}) {
    Accelerator accelerator({.mixed_precision = "fp16",
                             .cpu = true,
                             .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
                             .scaler_handler = GradScalerKwargs{.init_scale = 256, .growth_interval = 2}});
    Mlp net(1), plain(1);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1));
    optimizer.core()->update_with({.counters = counters});
    torch::optim::AdamW stock(plain->parameters(), 0.1);
    for (int step = 0; step < 12; ++step) {
      const auto [x, y] = make_batch(5, static_cast<uint64_t>(step));
      const bool bad = step % 4 == 0;
      accelerator.backward(mse(model(x), y));
      if (bad) net->out->bias.mutable_grad()[1] = std::numeric_limits<double>::infinity();
      const StepResult result = optimizer.step();
      EXPECT_EQ(result.skipped(), bad);
      EXPECT_EQ(result.applied(), !bad);
      EXPECT_FALSE(result.accumulated());
      plain->zero_grad();
      mse(plain(x), y).backward();
      for (size_t i = 0; i < plain->parameters().size() && !bad; ++i) {
        EXPECT_TRUE(torch::allclose(net->parameters()[i].grad(), plain->parameters()[i].grad(), 1e-10, 1e-14))
            << "gradients are seen without the scale";
      }
      if (!bad) stock.step();
      optimizer.zero_grad();
      const auto& state = static_cast<torch::optim::Optimizer&>(optimizer).state();
      for (const auto& [key, of_parameter] : state) {
        EXPECT_EQ(static_cast<const torch::optim::AdamWParamState&>(*of_parameter).step(), step - step / 4) << step;
      }
    }
    EXPECT_LT(training::distance(training::copy_of(net->parameters()), training::copy_of(plain->parameters())), 1e-12);
  }
}

}  // namespace
