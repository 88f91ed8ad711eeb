// Who keeps what alive, and that an address alone never stands for an object.
#include <cmath>
#include <optional>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::expect_error;
using training::Mlp;

/// One update with gradients of ones; returns how far the first weight moved.
double moved_by(const accelerate::Optimizer& optimizer, const Mlp& net) {
  for (at::Tensor& parameter : net->parameters()) parameter.mutable_grad() = torch::ones_like(parameter);
  const double before = net->hidden->weight[0][0].item<double>();
  optimizer.step();
  return before - net->hidden->weight[0][0].item<double>();
}

/// Storage in which one optimizer after the other is built, so that they share an address.
class Place {
 public:
  torch::optim::SGD& build(const Mlp& net, double rate) { return optimizer_.emplace(net->parameters(), rate); }
  torch::optim::SGD& operator*() { return *optimizer_; }

 private:
  std::optional<torch::optim::SGD> optimizer_;
};

TEST(Ownership, ATemporaryWhereABorrowedOneStoodIsKept) {
  Accelerator accelerator;
  Mlp net;
  Place place;
  accelerator.prepare(net, place.build(net, 0.1));
  place.build(net, 0.5);
  const auto kept = accelerator.prepare(std::move(*place));
  EXPECT_TRUE((*place).param_groups().empty()) << "it was moved out of the caller's hands";
  EXPECT_DOUBLE_EQ(moved_by(kept, net), 0.5);
}

TEST(Ownership, ASharedOptimizerWhereABorrowedOneStoodIsKept) {
  Accelerator accelerator;
  Mlp net;
  Place place;
  accelerator.prepare(net, place.build(net, 0.1));
  bool released = false;
  std::optional<accelerate::Optimizer> kept;
  {
    std::shared_ptr<torch::optim::SGD> shared(&place.build(net, 0.5), [&](auto*) { released = true; });
    kept = accelerator.prepare(shared);
  }
  EXPECT_FALSE(released) << "the handle owns it now";
  EXPECT_DOUBLE_EQ(moved_by(*kept, net), 0.5);
  kept.reset();
  EXPECT_TRUE(released);
}

TEST(Ownership, ABorrowedOptimizerIsForgottenWithItsHandle) {
  Accelerator accelerator;
  Mlp net;
  Place place;
  auto model = accelerator.prepare(net);
  std::weak_ptr<accelerate::internal::OptimizerCore> first = accelerator.prepare(place.build(net, 0.1)).core();
  EXPECT_TRUE(first.expired());
  place.build(net, 0.1);
  expect_error<UsageError>([&] { accelerator.prepare(accelerate::Scheduler(*place, accelerate::constant())); },
                           {"prepare", "not given to prepare()", "its optimizer", "Give both"});
}

/// Knows whether it is still there.
struct Watched {
  std::shared_ptr<int> alive;
  int64_t size() const { return 2; }
  at::Tensor get(int64_t index) const { return torch::full({1}, static_cast<double>(index)); }
};

TEST(Ownership, ADataSetLivesAsLongAsItsHandles) {
  Accelerator accelerator;
  auto alive = std::make_shared<int>(0);
  {
    auto loader = accelerator.prepare(accelerate::DataLoader(Watched{alive}));
    EXPECT_GT(alive.use_count(), 1);
  }
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(Ownership, EndOfTrainingLetsModelsGo) {
  Accelerator accelerator;
  std::weak_ptr<torch::nn::Module> seen;
  {
    auto net = std::make_shared<training::MlpImpl>();
    seen = net;
    accelerator.prepare(net);
  }
  EXPECT_FALSE(seen.expired()) << "a backward pass has to reach it";
  accelerator.end_training();
  EXPECT_TRUE(seen.expired());
}

TEST(Ownership, ASecondScheduleStartsFromTheOptimizersOwnRate) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters(), 0.5);
  auto [model, optimizer, warmup] = accelerator.prepare(net, adamw, accelerate::constant({.warmup_steps = 4}));
  EXPECT_EQ(warmup.get_last_lr()[0], 0.0);
  auto [again, second] = accelerator.prepare(optimizer, accelerate::constant());
  EXPECT_EQ(second.get_last_lr()[0], 0.5);
  const accelerate::Scheduler third(optimizer, accelerate::linear({.total_steps = 2}));
  EXPECT_EQ(third.get_last_lr()[0], 0.5);
  third.step();
  EXPECT_EQ(third.get_last_lr()[0], 0.25);
}

TEST(Ownership, TheRateBeforeAHandMadeSchedulerIsRememberedToo) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters(), 0.5);
  const accelerate::Scheduler warmup(adamw, accelerate::constant({.warmup_steps = 4}));
  auto [model, optimizer, first] = accelerator.prepare(net, adamw, warmup);
  auto [again, second] = accelerator.prepare(optimizer, accelerate::constant());
  EXPECT_EQ(second.get_last_lr()[0], 0.5);
}

TEST(Ownership, AReplacedLayerIsSaved) {
  Accelerator accelerator;
  const std::string folder = testing::TempDir() + "accelerate_replaced_layer";
  Mlp net;
  auto model = accelerator.prepare(net);
  net->out = net->replace_module("out", torch::nn::Linear(8, 5));
  accelerator.save_model(model, folder);
  Mlp other;
  other->out = other->replace_module("out", torch::nn::Linear(8, 5));
  auto loaded = accelerator.prepare(other);
  accelerator.load_model(loaded, folder);
  EXPECT_TRUE(torch::equal(other->out->weight, net->out->weight));
}

TEST(Collectives, AReducedLossKeepsItsGraph) {
  Accelerator accelerator;
  Mlp net;
  auto model = accelerator.prepare(net);
  accelerator.backward(accelerator.reduce(model(torch::ones({1, 4}, torch::kDouble)).sum()));
  EXPECT_TRUE(net->out->bias.grad().defined());
}

TEST(Print, ATensorWithoutDimensionsIsANumber) {
  Accelerator accelerator;
  testing::internal::CaptureStdout();
  accelerator.print("loss", torch::tensor(0.5), torch::tensor(3), torch::tensor(true));
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "loss 0.5 3 1\n");
}

TEST(Clip, TheNormAloneIsEnough) {
  Accelerator accelerator;
  Mlp net;
  auto model = accelerator.prepare(net);
  for (at::Tensor& parameter : net->parameters()) parameter.mutable_grad() = torch::ones_like(parameter);
  int64_t count = 0;
  for (const at::Tensor& parameter : net->parameters()) count += parameter.numel();
  const at::Tensor norm = accelerator.clip_grad_norm_(model, 0.5);
  EXPECT_NEAR(norm.item<double>(), std::sqrt(static_cast<double>(count)), 1e-12);
  EXPECT_NEAR(accelerator.clip_grad_norm_(net->parameters(), 1.0).norm.item<double>(), 0.5, 1e-6);
}

}  // namespace
