// prepare(): what comes back, in which order, and that one object has one prepared form.
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::DataLoader;
using accelerate::TensorDataset;
using training::learning_rate;
using training::make_batch;
using training::Mlp;
using training::MlpImpl;
using training::mse;

DataLoader<std::tuple<at::Tensor, at::Tensor>> make_loader(int64_t rows = 6, int64_t batch_size = 2) {
  const auto [x, y] = make_batch(rows, 1);
  return DataLoader(TensorDataset(x, y), {.batch_size = batch_size});
}

/// The optimizer behind a handle, as a scheduler of LibTorch would get it.
torch::optim::Optimizer& stock(const accelerate::Optimizer& handle) { return handle; }

TEST(Prepare, OneArgumentGivesABareHandle) {
  Accelerator accelerator;
  Mlp net;
  auto model = accelerator.prepare(net);
  static_assert(std::is_same_v<decltype(model), accelerate::Model<MlpImpl>>);
  torch::optim::AdamW adamw(net->parameters());
  static_assert(std::is_same_v<decltype(accelerator.prepare(adamw)), accelerate::Optimizer>);
  auto loader = make_loader();
  static_assert(std::is_same_v<decltype(accelerator.prepare(loader)), decltype(loader)>);
  EXPECT_TRUE(accelerator.prepare(loader).core()->is_prepared());
}

TEST(Prepare, SeveralComeBackInTheOrderGiven) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters());
  auto loader = make_loader();
  auto [scheduler, data, optimizer, model] =
      accelerator.prepare(accelerate::linear({.total_steps = 10}), loader, adamw, net);
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(scheduler)>, accelerate::Scheduler>);
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(optimizer)>, accelerate::Optimizer>);
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(&stock(optimizer), &adamw);
  EXPECT_EQ(model.ptr(), net.ptr());
  EXPECT_TRUE(scheduler.is_prepared());
}

TEST(Prepare, EightObjectsInOneCall) {
  Accelerator accelerator;
  Mlp first(1), second(2);
  torch::optim::AdamW adamw(first->parameters());
  torch::optim::SGD sgd(second->parameters(), 0.1);
  accelerate::Scheduler slow(adamw, accelerate::constant()), fast(sgd, accelerate::linear({.total_steps = 4}));
  auto [a, b, c, d, e, f, g, h] =
      accelerator.prepare(first, adamw, make_loader(6), slow, second, sgd, make_loader(8), fast);
  EXPECT_EQ(a.ptr(), first.ptr());
  EXPECT_EQ(e.ptr(), second.ptr());
  EXPECT_EQ(&stock(b), &adamw);
  EXPECT_EQ(&stock(f), &sgd);
  EXPECT_EQ(c.num_samples(), 6);
  EXPECT_EQ(g.num_samples(), 8);
  f.step();
  h.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.1 * 0.75);
  d.step();
  EXPECT_DOUBLE_EQ(learning_rate(adamw), 1e-3);
}

TEST(Prepare, TheSameObjectTwiceInOneCallIsOnePreparedObject) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters());
  auto loader = make_loader();
  accelerate::Scheduler schedule(adamw, accelerate::constant());
  auto [m1, m2, o1, o2, l1, l2, s1, s2] =
      accelerator.prepare(net, net, adamw, adamw, loader, loader, schedule, schedule);
  EXPECT_EQ(m1.core(), m2.core());
  EXPECT_EQ(o1.core(), o2.core());
  EXPECT_EQ(l1.core(), l2.core());
  EXPECT_EQ(s1.core(), s2.core());
}

TEST(Prepare, TheSameObjectInALaterCallIsTheSamePreparedObject) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters());
  auto loader = make_loader();
  accelerate::Scheduler schedule(adamw, accelerate::constant());
  auto [m1, o1, l1, s1] = accelerator.prepare(net, adamw, loader, schedule);
  auto [s2, l2, o2, m2] = accelerator.prepare(schedule, loader, adamw, net);
  EXPECT_EQ(m1.core(), m2.core());
  EXPECT_EQ(o1.core(), o2.core());
  EXPECT_EQ(l1.core(), l2.core());
  EXPECT_EQ(s1.core(), s2.core());
}

TEST(Prepare, HandlesGivenAgainComeBackAsTheyAre) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters());
  auto [m1, o1, l1, s1] = accelerator.prepare(net, adamw, make_loader(), accelerate::linear({.total_steps = 4}));
  o1.step();
  s1.step();
  const double rate = learning_rate(adamw);
  auto [m2, o2, l2, s2] = accelerator.prepare(m1, o1, l1, s1);
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(m2)>, accelerate::Model<MlpImpl>>);
  EXPECT_EQ(m1.core(), m2.core());
  EXPECT_EQ(o1.core(), o2.core());
  EXPECT_EQ(l1.core(), l2.core());
  EXPECT_EQ(s1.core(), s2.core());
  EXPECT_TRUE(s2.is_prepared());
  EXPECT_EQ(s2.last_epoch(), 1);
  EXPECT_DOUBLE_EQ(learning_rate(adamw), rate) << "the schedule was not started again";
}

TEST(Prepare, HolderAndSharedPointerOfOneModuleAreOneModel) {
  Accelerator accelerator;
  Mlp net;
  auto [from_holder, from_pointer] = accelerator.prepare(net, net.ptr());
  static_assert(std::is_same_v<decltype(from_holder), decltype(from_pointer)>);
  EXPECT_EQ(from_holder.core(), from_pointer.core());
}

TEST(Prepare, AHolderByValueIsKeptAlive) {
  Accelerator accelerator;
  auto model = accelerator.prepare(Mlp(4));
  EXPECT_EQ(model(torch::zeros({3, 4}, torch::kDouble)).sizes(), (std::vector<int64_t>{3, 2}));
}

TEST(Prepare, OptimizerByReferenceIsBorrowed) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::AdamW adamw(net->parameters());
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  torch::optim::Optimizer& inner = optimizer;
  EXPECT_EQ(&inner, &adamw);
  EXPECT_EQ(optimizer.param_groups().size(), 1u);
}

TEST(Prepare, OptimizerByValueIsTakenOver) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 0.5);
  auto [model, optimizer] = accelerator.prepare(net, std::move(sgd));
  const auto [x, y] = make_batch(4, 1);
  const auto before = net->out->weight.detach().clone();
  accelerator.backward(mse(model(x), y));
  EXPECT_TRUE(optimizer.step().applied());
  EXPECT_TRUE(torch::allclose(net->out->weight, before - 0.5 * net->out->weight.grad()));
  EXPECT_EQ(learning_rate(optimizer), 0.5);
}

TEST(Prepare, AnOptimizerPreparedByReferenceIsNotTakenLater) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 0.5);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  auto again = accelerator.prepare(std::move(sgd));
  EXPECT_EQ(again.core(), optimizer.core());
  EXPECT_EQ(&stock(again), &sgd);
  EXPECT_EQ(learning_rate(optimizer), 0.5);
}

TEST(Prepare, OneOptimizerGivenTwiceIsOneOptimizerForASchedule) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  auto [model, first, second, scheduler] = accelerator.prepare(net, sgd, sgd, accelerate::linear({.total_steps = 2}));
  first.step();
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.5);
}

TEST(Prepare, OptimizerBySharedPointerIsShared) {
  Accelerator accelerator;
  Mlp net;
  auto adamw = std::make_shared<torch::optim::AdamW>(net->parameters());
  const std::shared_ptr<torch::optim::Optimizer> base = adamw;
  auto [model, optimizer, again] = accelerator.prepare(net, adamw, base);
  EXPECT_EQ(&stock(optimizer), adamw.get());
  EXPECT_EQ(optimizer.core(), again.core());
  const std::weak_ptr<torch::optim::AdamW> watch = adamw;
  adamw.reset();
  EXPECT_FALSE(watch.expired());
  optimizer.step();
}

TEST(Prepare, SchedulerBeforeItsOptimizerInTheArguments) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  accelerate::Scheduler schedule(sgd, accelerate::linear({.total_steps = 4}));
  auto [scheduler, optimizer, model] = accelerator.prepare(schedule, sgd, net);
  {
    auto window = accelerator.accumulate(model);
    optimizer.step();
    scheduler.step();
  }
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0) << "bound to its optimizer's accumulation";
  {
    auto window = accelerator.accumulate(model);
    optimizer.step();
    scheduler.step();
  }
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.75);
}

TEST(Prepare, SchedulerInALaterCallFindsItsOptimizer) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  auto from_raw = accelerator.prepare(accelerate::Scheduler(sgd, accelerate::constant()));
  auto from_handle = accelerator.prepare(accelerate::Scheduler(optimizer, accelerate::linear({.total_steps = 2})));
  optimizer.step();
  from_handle.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.5);
  from_raw.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
}

TEST(Prepare, AFunctionOfTheStepIsASchedule) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, sgd, [](int64_t step) { return 1.0 / static_cast<double>(1 + step); });
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 1.0);
  optimizer.step();
  scheduler.step();
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.5);
}

TEST(Prepare, ASchedulesFirstFactorIsSetAtOnce) {
  Accelerator accelerator;
  Mlp net;
  torch::optim::SGD sgd(net->parameters(), 1.0);
  accelerator.prepare(net, sgd, accelerate::constant({.warmup_steps = 4}));
  EXPECT_DOUBLE_EQ(learning_rate(sgd), 0.0);
}

TEST(Prepare, ABatchNeedsNoDeviceInUserCodeAndKeepsItsValues) {
  Accelerator accelerator;
  auto loader = make_loader();
  auto prepared = accelerator.prepare(loader);
  int64_t batches = 0;
  auto plain = loader.begin();
  for (auto& [x, y] : prepared) {
    EXPECT_EQ(x.device(), accelerator.device());
    EXPECT_TRUE(torch::equal(x, std::get<0>(*plain)));
    ++plain;
    ++batches;
  }
  EXPECT_EQ(batches, 3);
}

TEST(Prepare, AnOptimizerOverTwoPreparedModels) {
  Accelerator accelerator;
  Mlp first(1), second(2);
  auto parameters = first->parameters();
  for (const auto& parameter : second->parameters()) parameters.push_back(parameter);
  torch::optim::AdamW adamw(parameters);
  accelerator.prepare(first);
  auto [model, optimizer] = accelerator.prepare(second, adamw);
  EXPECT_EQ(optimizer.core()->update_name(), "fused adamw");
}

TEST(Prepare, OneModuleByTwoAcceleratorsIsTwoModels) {
  Accelerator full, half({.mixed_precision = "bf16"});
  Mlp net(1, torch::kFloat);
  auto a = full.prepare(net);
  auto b = half.prepare(net);
  EXPECT_NE(a.core(), b.core());
  EXPECT_EQ(a.ptr(), b.ptr());
}

// An optimizer that is gone must not be found again under its old address, with another type or a newer one's state.
TEST(Prepare, AnOptimizerBuiltWhereAnotherStoodIsANewOne) {
  Accelerator accelerator({.gradient_accumulation_steps = 2});
  Mlp net;
  auto model = accelerator.prepare(net);
  std::variant<torch::optim::AdamW, torch::optim::SGD> place(std::in_place_index<0>, net->parameters());
  {
    auto optimizer = accelerator.prepare(std::get<0>(place));
    EXPECT_EQ(optimizer.core()->update_name(), "fused adamw");
  }
  place.emplace<1>(net->parameters(), 0.1);
  auto optimizer = accelerator.prepare(std::get<1>(place));
  EXPECT_EQ(optimizer.core()->update_name(), "fused sgd");
}

}  // namespace
