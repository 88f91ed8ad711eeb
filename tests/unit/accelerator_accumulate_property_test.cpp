// Accumulating k micro-batches is one batch k times as large, and two Accelerators do not know of each other.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using training::make_batch;
using training::Mlp;
using training::mse;

std::unique_ptr<torch::optim::Optimizer> make_optimizer(int kind, const std::vector<at::Tensor>& parameters) {
  switch (kind) {
    case 0:
      return std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(0.1).momentum(0.9));
    case 1:
      return std::make_unique<torch::optim::AdamW>(parameters, torch::optim::AdamWOptions(1e-2));
    case 2:
      return std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-2).amsgrad(true));
    default:
      return std::make_unique<torch::optim::RMSprop>(parameters, torch::optim::RMSpropOptions(1e-2));
  }
}

struct Run {
  int kind = 0;
  int64_t micro_steps = 1;
  int64_t rows = 1;  ///< of a micro-batch
  int64_t updates = 1;
  bool clip = false;
};

std::vector<at::Tensor> train(const Run& run, int64_t micro_steps, int64_t rows) {
  Accelerator accelerator({.gradient_accumulation_steps = micro_steps});
  Mlp net(11);
  const std::shared_ptr<torch::optim::Optimizer> stock = make_optimizer(run.kind, net->parameters());
  const auto [x, y] = make_batch(run.updates * micro_steps * rows, 12);
  auto [model, optimizer, loader, scheduler] =
      accelerator.prepare(net, stock, accelerate::DataLoader(accelerate::TensorDataset(x, y), {.batch_size = rows}),
                          accelerate::cosine({.warmup_steps = 1, .total_steps = run.updates + 1}));
  for (auto& [input, target] : loader) {
    auto window = accelerator.accumulate(model);
    accelerator.backward(mse(model(input), target));
    if (run.clip) accelerator.clip_grad_norm_(model, {.max_norm = 0.3});
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
  }
  EXPECT_EQ(scheduler.last_epoch(), run.updates);
  return training::copy_of(net->parameters());
}

// Sums are taken in another order, so the tolerance is rounding in float64, grown by up to six updates; Adam's first
// updates divide small gradients by their own size, which is why it is not tighter.
RC_GTEST_PROP(AccumulateProperty, MicroBatchesEqualOneLargeBatch, ()) {
  const Run run{.kind = *rc::gen::inRange(0, 4),
                .micro_steps = *rc::gen::inRange<int64_t>(1, 6),
                .rows = *rc::gen::inRange<int64_t>(1, 7),
                .updates = *rc::gen::inRange<int64_t>(1, 7),
                .clip = *rc::gen::arbitrary<bool>()};
  const auto small = train(run, run.micro_steps, run.rows);
  const auto large = train(run, 1, run.rows * run.micro_steps);
  RC_ASSERT(training::distance(small, large) < 1e-9);
}

/// One training loop that can be advanced one micro-step at a time.
class Loop {
 public:
  Loop(uint64_t seed, accelerate::AcceleratorOptions options)
      : accelerator_(std::move(options)),
        net_(seed),
        adamw_(net_->parameters(), torch::optim::AdamWOptions(1e-2)),
        handles_(accelerator_.prepare(net_, adamw_, accelerate::linear({.total_steps = 40}))),
        seed_(seed) {}

  void advance() {
    auto& [model, optimizer, scheduler] = handles_;
    const auto [x, y] = make_batch(5, seed_ * 1000 + micro_step_++);
    auto window = accelerator_.accumulate(model);
    accelerator_.backward(mse(model(x), y));
    accelerator_.clip_grad_norm_(model, {.max_norm = 1.0});
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
  }
  std::vector<at::Tensor> parameters() const { return training::copy_of(net_->parameters()); }

 private:
  Accelerator accelerator_;
  Mlp net_;
  torch::optim::AdamW adamw_;
  std::tuple<accelerate::Model<training::MlpImpl>, accelerate::Optimizer, accelerate::Scheduler> handles_;
  uint64_t seed_;
  uint64_t micro_step_ = 0;
};

std::vector<at::Tensor> alone(uint64_t seed, accelerate::AcceleratorOptions options, int steps) {
  Loop loop(seed, std::move(options));
  for (int i = 0; i < steps; ++i) loop.advance();
  return loop.parameters();
}

TEST(TwoAccelerators, InterleavedLoopsEqualSeparateRunsBitForBit) {
  const accelerate::AcceleratorOptions two{.gradient_accumulation_steps = 2};
  const accelerate::AcceleratorOptions three{.mixed_precision = "bf16", .gradient_accumulation_steps = 3};
  Loop first(1, two), second(2, three);
  for (int i = 0; i < 24; ++i) {
    first.advance();
    second.advance();
  }
  EXPECT_TRUE(training::equal(first.parameters(), alone(1, two, 24)));
  EXPECT_TRUE(training::equal(second.parameters(), alone(2, three, 24)));
}

TEST(TwoAccelerators, OneMayEndWhileTheOtherTrains) {
  auto first = std::make_unique<Loop>(1, accelerate::AcceleratorOptions{});
  Loop second(2, {});
  first->advance();
  second.advance();
  first.reset();
  for (int i = 1; i < 10; ++i) second.advance();
  EXPECT_TRUE(training::equal(second.parameters(), alone(2, {}, 10)));
}

TEST(TwoAccelerators, WindowsOfBothMayBeOpenAtOnce) {
  Accelerator a({.gradient_accumulation_steps = 2}), b({.gradient_accumulation_steps = 3});
  auto first = a.prepare(Mlp(1));
  auto second = b.prepare(Mlp(2));
  auto one = a.accumulate(first);
  auto other = b.accumulate(second);
  EXPECT_EQ(a.gradient_accumulation_steps(), 2);
  EXPECT_EQ(b.gradient_accumulation_steps(), 3);
}

}  // namespace
