// The end of training, destruction, moving, and what an Accelerator leaves behind: nothing.
#include <filesystem>

#include "tests/support/temporary_folder.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::UsageError;
using training::copy_of;
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

/// Everything a loop holds, prepared by an Accelerator that a test may end, destroy or move.
struct Loop {
  explicit Loop(accelerate::AcceleratorOptions options = {}) : accelerator(std::in_place, std::move(options)) {}
  std::optional<Accelerator> accelerator;
  Mlp net{1};
  torch::optim::SGD sgd{net->parameters(), 0.1};
  std::tuple<accelerate::Model<MlpImpl>, accelerate::Optimizer,
             accelerate::DataLoader<std::tuple<at::Tensor, at::Tensor>>, accelerate::Scheduler>
      handles = accelerator->prepare(net, sgd, make_loader(), accelerate::linear({.total_steps = 10}));
  accelerate::Model<MlpImpl>& model() { return std::get<0>(handles); }
  accelerate::Optimizer& optimizer() { return std::get<1>(handles); }
  accelerate::Scheduler& scheduler() { return std::get<3>(handles); }
};

void expect_ended(const std::string& place, const std::function<void()>& verb) {
  expect_error<UsageError>(verb, {place, "after end_training() or after the Accelerator was destroyed", "it before",
                                  "make a new Accelerator"});
}

TEST(EndOfTraining, EveryTrainingVerbThrowsAndNothingChanges) {
  Loop loop;
  const auto [x, y] = make_batch(4, 2);
  const auto loss = mse(loop.model()(x), y);
  const auto before = copy_of(loop.net->parameters());
  loop.accelerator->end_training();
  expect_ended("prepare", [&] { loop.accelerator->prepare(Mlp(2)); });
  expect_ended("accumulate", [&] { auto window = loop.accelerator->accumulate(loop.model()); });
  expect_ended("backward", [&] { loop.accelerator->backward(loss); });
  expect_ended("clip_grad_norm_", [&] { loop.accelerator->clip_grad_norm_(loop.model(), {.max_norm = 1.0}); });
  expect_ended("clip_grad_value_", [&] { loop.accelerator->clip_grad_value_(loop.model(), {.clip_value = 1.0}); });
  expect_ended("optimizer.step", [&] { loop.optimizer().step(); });
  expect_ended("optimizer.zero_grad", [&] { loop.optimizer().zero_grad(); });
  expect_ended("scheduler.step", [&] { loop.scheduler().step(); });
  EXPECT_TRUE(equal(before, loop.net->parameters()));
  EXPECT_EQ(loop.scheduler().last_epoch(), 0);
  EXPECT_FALSE(loop.net->out->weight.grad().defined());
}

TEST(EndOfTraining, ASecondEndIsHarmless) {
  Loop loop;
  loop.accelerator->end_training();
  loop.accelerator->end_training();
  EXPECT_THROW(loop.optimizer().step(), UsageError);
}

TEST(EndOfTraining, QuestionsAndGatheringStillWork) {
  Loop loop;
  loop.accelerator->end_training();
  EXPECT_EQ(loop.accelerator->num_processes(), 1);
  EXPECT_EQ(loop.accelerator->plan().at("mixed_precision").value, "no");
  EXPECT_EQ(loop.accelerator->gather(torch::ones({2})).sum().item<float>(), 2.0f);
}

TEST(EndOfTraining, TheModelCanStillBeSavedAndLoaded) {
  const accelerate::support::TemporaryFolder folder;
  Loop loop, fresh;
  loop.accelerator->end_training();
  loop.accelerator->save_model(loop.model(), folder.path().string());
  const torch::NoGradGuard no_grad;
  for (auto& parameter : fresh.net->parameters()) parameter.zero_();
  fresh.accelerator->end_training();
  fresh.accelerator->load_model(fresh.model(), folder.path().string());
  EXPECT_TRUE(equal(loop.net->parameters(), fresh.net->parameters()));
}

TEST(DestroyedAccelerator, TrainingVerbsOfItsHandlesThrowAndInferenceRuns) {
  Loop loop({.mixed_precision = "bf16"});
  const auto [x, y] = make_batch(4, 2);
  const auto before = loop.model()(x).detach();
  loop.accelerator.reset();
  expect_ended("optimizer.step", [&] { loop.optimizer().step(); });
  expect_ended("optimizer.zero_grad", [&] { loop.optimizer().zero_grad(); });
  expect_ended("scheduler.step", [&] { loop.scheduler().step(); });
  EXPECT_TRUE(torch::equal(loop.model()(x), before)) << "inference keeps the model's precision";
  int64_t batches = 0;
  for ([[maybe_unused]] auto& batch : std::get<2>(loop.handles)) ++batches;
  EXPECT_EQ(batches, 3);
  EXPECT_EQ(loop.scheduler().get_last_lr(), std::vector<double>{0.1});
}

TEST(DestroyedAccelerator, AGuardMayOutliveIt) {
  auto accelerator = std::make_unique<Accelerator>(accelerate::AcceleratorOptions{.gradient_accumulation_steps = 2});
  auto model = accelerator->prepare(Mlp(1));
  auto window = accelerator->accumulate(model);
  accelerator.reset();
  const auto x = make_batch(4, 2).x;
  EXPECT_EQ(model(x).size(0), 4);
}

TEST(DestroyedAccelerator, ItsObjectsCanBePreparedAgainByANewOne) {
  Loop loop;
  loop.accelerator.reset();
  Accelerator next;
  auto [model, optimizer] = next.prepare(loop.net, loop.sgd);
  const auto [x, y] = make_batch(4, 2);
  next.backward(mse(model(x), y));
  EXPECT_TRUE(optimizer.step().applied());
  EXPECT_THROW(loop.optimizer().step(), UsageError) << "the old handle stays ended";
}

TEST(MovedAccelerator, TheNewObjectGoesOnAndTheOldOneSaysSo) {
  Loop loop({.gradient_accumulation_steps = 2});
  const auto [x, y] = make_batch(4, 2);
  { auto window = loop.accelerator->accumulate(loop.model()); }
  Accelerator moved = std::move(*loop.accelerator);
  auto window = moved.accumulate(loop.model());
  EXPECT_TRUE(moved.sync_gradients()) << "the count went with it";
  moved.backward(mse(loop.model()(x), y));
  EXPECT_TRUE(loop.optimizer().step().applied());
  const auto loss = mse(loop.model()(x), y);
  expect_error<UsageError>([&] { loop.accelerator->backward(loss); },
                           {"Accelerator", "a call on the old object", "the object it was moved to", "Use that one"});
  loop.accelerator.reset();
  EXPECT_NO_THROW(loop.optimizer().zero_grad()) << "destroying what was moved from ends nothing";
}

TEST(MovedAccelerator, AssignmentEndsTheTrainingOfTheOneReplaced) {
  Loop old_loop, new_loop;
  *old_loop.accelerator = std::move(*new_loop.accelerator);
  EXPECT_THROW(old_loop.optimizer().step(), UsageError);
  EXPECT_NO_THROW(new_loop.optimizer().step());
  EXPECT_EQ(old_loop.accelerator->num_processes(), 1);
}

TEST(MovedAccelerator, AssignmentToItselfChangesNothing) {
  Loop loop;
  Accelerator& same = *loop.accelerator;
  same = std::move(*loop.accelerator);
  EXPECT_NO_THROW(loop.optimizer().step());
}

TEST(MovedAccelerator, IsMoveOnly) {
  static_assert(!std::is_copy_constructible_v<Accelerator> && !std::is_copy_assignable_v<Accelerator>);
  static_assert(std::is_nothrow_move_constructible_v<Accelerator> && std::is_nothrow_move_assignable_v<Accelerator>);
  std::vector<Accelerator> several;
  several.push_back(Accelerator());
  several.emplace_back(accelerate::AcceleratorOptions{.mixed_precision = "bf16"});
  EXPECT_EQ(several[1].mixed_precision(), "bf16");
}

/// Entries of a folder of /proc/self: threads in "task", open files and sockets in "fd".
int64_t count(const char* folder) {
  const std::filesystem::directory_iterator entries(std::string("/proc/self/") + folder);
  return std::distance(begin(entries), end(entries));
}

TEST(Footprint, ConstructingOpensNoThreadFileOrSocket) {
  const int64_t threads = count("task"), files = count("fd");
  const Accelerator accelerator({.mixed_precision = "bf16", .gradient_accumulation_steps = 2});
  EXPECT_EQ(count("task"), threads);
  EXPECT_EQ(count("fd"), files);
}

void train_save_and_load(const std::string& folder) {
  Loop loop({.gradient_accumulation_steps = 2});
  for (auto& [x, y] : std::get<2>(loop.handles)) {
    auto window = loop.accelerator->accumulate(loop.model());
    loop.accelerator->backward(mse(loop.model()(x), y));
    loop.accelerator->clip_grad_norm_(loop.model(), {.max_norm = 1.0});
    loop.optimizer().step();
    loop.scheduler().step();
    loop.optimizer().zero_grad();
  }
  loop.accelerator->save_model(loop.model(), folder);
  loop.accelerator->load_model(loop.model(), folder);
  loop.accelerator->wait_for_everyone();
}

TEST(Footprint, TeardownLeavesNoThreadFileOrSocket) {
  const accelerate::support::TemporaryFolder folder;
  train_save_and_load(folder / "warm_up");  // LibTorch starts its own pools once
  const int64_t threads = count("task"), files = count("fd");
  for (int i = 0; i < 3; ++i) train_save_and_load(folder / "model");
  EXPECT_EQ(count("task"), threads);
  EXPECT_EQ(count("fd"), files);
}

TEST(Footprint, TheModelAndTheOptimizerGivenByValueAreFreed) {
  std::weak_ptr<MlpImpl> net;
  std::weak_ptr<torch::optim::AdamW> adamw;
  {
    Accelerator accelerator;
    Mlp owned(1);
    net = owned.ptr();
    const auto shared = std::make_shared<torch::optim::AdamW>(owned->parameters());
    adamw = shared;
    auto [model, optimizer] = accelerator.prepare(owned, shared);
    optimizer.step();
    EXPECT_FALSE(net.expired());
  }
  EXPECT_TRUE(net.expired());
  EXPECT_TRUE(adamw.expired());
}

/// Says when the data are gone.
struct WatchedDataset {
  using Example = at::Tensor;
  std::shared_ptr<int> watched;
  int64_t size() const { return 4; }
  at::Tensor get(int64_t index) const { return torch::full({1}, static_cast<double>(index)); }
};

// A check of the original: a pass that was left in the middle keeps nothing alive.
TEST(Footprint, TheDataOfAPassLeftInTheMiddleAreFreed) {
  std::weak_ptr<int> data;
  {
    Accelerator accelerator;
    auto watched = std::make_shared<int>(1);
    data = watched;
    const auto loader = accelerator.prepare(accelerate::DataLoader(WatchedDataset{std::move(watched)}));
    for ([[maybe_unused]] auto& batch : loader) break;
    auto pass = loader.begin();
    EXPECT_EQ((*pass).item<double>(), 0);
    EXPECT_FALSE(data.expired());
  }
  EXPECT_TRUE(data.expired());
}

}  // namespace
