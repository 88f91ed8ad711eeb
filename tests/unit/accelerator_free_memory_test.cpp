// free_memory and clear: what is let go, what handles do afterwards, and a second training in one program.
#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::copy_of;
using training::distance;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::MlpImpl;
using training::mse;

auto make_loader() {
  const auto [x, y] = make_batch(6, 1);
  return accelerate::DataLoader(accelerate::TensorDataset(x, y), {.batch_size = 2});
}

void expect_empty(const std::string& kind, const std::function<void()>& call) {
  expect_error<UsageError>(call, {kind, "free_memory() emptied", "what prepare() returned", "Prepare again"});
}

void expect_released(const std::string& verb, const std::function<void()>& call) {
  expect_error<UsageError>(call, {verb, "prepared before", "prepared since", "again"});
}

// A check of the original: after free_memory the registries are empty, and what nobody else holds is gone.
TEST(FreeMemory, LetsEverythingGoThatNobodyElseHolds) {
  Accelerator accelerator;
  std::weak_ptr<MlpImpl> module;
  {
    Mlp net(1);
    module = net.ptr();
    auto [model, optimizer, loader, scheduler] = accelerator.prepare(
        net, torch::optim::AdamW(net->parameters(), 1e-3), make_loader(), accelerate::linear({.total_steps = 10}));
    const std::weak_ptr<void> optimizer_core = optimizer.core(), loader_core = loader.core(),
                              scheduler_core = scheduler.core();
    net = nullptr;
    accelerator.free_memory(model, optimizer, loader, scheduler);
    EXPECT_TRUE(optimizer_core.expired());
    EXPECT_TRUE(loader_core.expired());
    EXPECT_TRUE(scheduler_core.expired());
  }
  EXPECT_TRUE(module.expired());
}

TEST(FreeMemory, EmptiedHandlesSayWhatTheyAre) {
  Accelerator accelerator;
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer, loader, scheduler] =
      accelerator.prepare(net, sgd, make_loader(), accelerate::linear({.total_steps = 10}));
  accelerator.free_memory(model, optimizer, loader, scheduler);
  const auto x = make_batch(2, 1).x;
  expect_empty("model", [&, &model = model] { model(x); });
  expect_empty("model", [&model = model] { model->train(); });
  expect_empty("model", [&, &model = model] { model.call(&MlpImpl::forward, x); });
  expect_empty("model", [&, &model = model] { auto window = accelerator.accumulate(model); });
  expect_empty("model", [&, &model = model] { accelerator.clip_grad_norm_(model, 1.0); });
  expect_empty("model", [&, &model = model] { accelerator.unwrap_model(model); });
  expect_empty("model", [&, &model = model] { accelerator.save_model(model, "never"); });
  expect_empty("optimizer", [&optimizer = optimizer] { optimizer.step(); });
  expect_empty("optimizer", [&optimizer = optimizer] { optimizer.zero_grad(); });
  expect_empty("optimizer", [&optimizer = optimizer] { optimizer.param_groups(); });
  expect_empty("optimizer", [&, &optimizer = optimizer] { accelerator.unscale_gradients(optimizer); });
  expect_empty("data loader", [&loader = loader] { loader.begin(); });
  expect_empty("data loader", [&loader = loader] { loader.size(); });
  expect_empty("scheduler", [&scheduler = scheduler] { scheduler.step(); });
  expect_empty("scheduler", [&scheduler = scheduler] { scheduler.get_last_lr(); });
  EXPECT_TRUE(model.empty());
  EXPECT_EQ(net->parameters().size(), 4u) << "what is the user's own stays";
}

TEST(FreeMemory, EmptiedOptimizersAreNamedByWhatTakesThem) {
  Accelerator accelerator;
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  accelerator.free_memory(optimizer);
  expect_empty("optimizer", [&, &optimizer = optimizer] { accelerator.gradient_statistics(optimizer); });
  expect_empty("optimizer",
               [&optimizer = optimizer] { accelerate::Scheduler(optimizer, accelerate::linear({.total_steps = 10})); });
  expect_empty("optimizer",
               [&optimizer = optimizer] { accelerate::Scheduler(optimizer, accelerate::ReduceLROnPlateau{}); });
}

TEST(FreeMemory, OlderHandlesRunForwardAndTrainNoMore) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer, loader, scheduler] =
      accelerator.prepare(net, sgd, make_loader(), accelerate::linear({.total_steps = 10}));
  const auto [x, y] = make_batch(2, 1);
  const auto output = model(x).detach();
  const auto before = copy_of(net->parameters());
  accelerator.clear();
  EXPECT_TRUE(torch::equal(model(x), output));
  expect_released("accumulate", [&, &model = model] { auto window = accelerator.accumulate(model); });
  expect_released("no_sync", [&, &model = model] { auto local = accelerator.no_sync(model); });
  expect_released("optimizer.step", [&optimizer = optimizer] { optimizer.step(); });
  expect_released("optimizer.zero_grad", [&optimizer = optimizer] { optimizer.zero_grad(); });
  expect_released("scheduler.step", [&scheduler = scheduler] { scheduler.step(); });
  expect_error<UsageError>([&, &model = model] { accelerator.prepare(model); },
                           {"prepare", "the handle from before", "what it was prepared from", "original model"});
  expect_error<UsageError>([&, &optimizer = optimizer] { accelerator.prepare(net, optimizer); },
                           {"prepare", "the handle from before", "what it was prepared from", "original optimizer"});
  EXPECT_TRUE(equal(before, copy_of(net->parameters())));
  int64_t batches = 0;
  for ([[maybe_unused]] auto& batch : loader) ++batches;
  EXPECT_EQ(batches, 3);
  const accelerate::support::TemporaryFolder folder;
  accelerator.save_model(model, folder.path().string());
}

// As in the original, free_memory puts the step counter to 0.
TEST(FreeMemory, CountsMicroStepsAnew) {
  Accelerator accelerator({.gradient_accumulation_steps = 3});
  Mlp net(1);
  for (int round = 0; round < 3; ++round) {
    auto model = accelerator.prepare(net);
    for (int step = 0; step < 2; ++step) {
      const auto window = accelerator.accumulate(model);
      EXPECT_FALSE(accelerator.sync_gradients()) << "round " << round << " step " << step;
    }
    accelerator.free_memory(model);
    EXPECT_EQ(accelerator.gradient_accumulation_steps(), 3);
  }
}

TEST(FreeMemory, TheSameObjectsCanBePreparedAgainAndTrainAsIfForTheFirstTime) {
  const auto [x, y] = make_batch(6, 1);
  Accelerator accelerator;
  Mlp net(1), twin(1);
  torch::optim::AdamW adamw(net->parameters(), 1e-2), by_hand(twin->parameters(), 1e-2);
  for (int round = 0; round < 2; ++round) {
    auto [model, optimizer] = accelerator.prepare(net, adamw);
    for (int step = 0; step < 3; ++step) {
      accelerator.backward(mse(model(x), y));
      optimizer.step();
      optimizer.zero_grad();
      mse(twin(x), y).backward();
      by_hand.step();
      by_hand.zero_grad();
    }
    accelerator.free_memory(model, optimizer);
  }
  EXPECT_LT(distance(copy_of(net->parameters()), copy_of(twin->parameters())), 1e-12);
}

TEST(FreeMemory, MayComeInTheMiddleOfAWindowAndOfAPass) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net(1);
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer, loader] = accelerator.prepare(net, sgd, make_loader());
  for (auto& [x, y] : loader) {
    const auto window = accelerator.accumulate(model);
    accelerator.backward(mse(model(x), y));
    accelerator.free_memory(model, optimizer);
    expect_empty("optimizer", [&optimizer = optimizer] { optimizer.step(); });
    break;
  }
  auto [again, again_optimizer] = accelerator.prepare(net, sgd);
  const auto window = accelerator.accumulate(again);
  EXPECT_FALSE(accelerator.sync_gradients());
}

TEST(FreeMemory, EmptiesPointersAndHoldersToo) {
  Accelerator accelerator;
  Mlp net(1);
  auto shared = std::make_shared<MlpImpl>(2);
  auto unique = std::make_unique<int>(3);
  accelerator.prepare(net, shared);
  accelerator.free_memory(net, shared, unique);
  EXPECT_TRUE(net.is_empty());
  EXPECT_EQ(shared, nullptr);
  EXPECT_EQ(unique, nullptr);
}

TEST(FreeMemory, IsATrainingVerb) {
  Accelerator accelerator;
  accelerator.end_training();
  EXPECT_THROW(accelerator.free_memory(), UsageError);
  EXPECT_THROW(accelerator.clear(), UsageError);
}

}  // namespace
