// Averages of the weights: what they are, when they move, and that swapping them in undoes itself.
#include "accelerate/optim/ema.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::Ema;
using accelerate::EmaOptions;
using accelerate::StepResult;
using accelerate::UsageError;
using training::copy_of;
using training::equal;
using training::expect_error;
using training::Mlp;
using training::MlpImpl;

const StepResult kApplied(StepResult::Outcome::kApplied);
const StepResult kAccumulated(StepResult::Outcome::kAccumulated);
const StepResult kSkipped(StepResult::Outcome::kSkipped);

void become(torch::nn::Module& net, double value) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : net.parameters()) parameter.fill_(value);
}

std::vector<at::Tensor> averages_of(Ema& ema, const torch::nn::Module& net) {
  const auto weights = ema.apply();
  return copy_of(net.parameters());
}

/// What was written, to be looked at and to be read back.
struct Written : accelerate::StateWriter, accelerate::StateReader {
  void write(const accelerate::ShardedTensor& tensor) override {
    EXPECT_TRUE(tensors.emplace(tensor.name, tensor.local.detach().clone()).second) << tensor.name << " twice";
    EXPECT_EQ(tensor.held, (accelerate::Range{0, tensor.local.numel()}));
    EXPECT_EQ(tensor.global_shape, tensor.local.sizes().vec());
  }
  void read(const accelerate::ShardedTensor& tensor) override {
    const torch::NoGradGuard no_grad;
    at::Tensor local = tensor.local;
    local.copy_(tensors.at(tensor.name));
  }
  std::map<std::string, at::Tensor> tensors;
};

TEST(EmaDecay, CopiesFirstThenKeepsItsShare) {
  const EmaOptions plain{.decay = 0.9};
  EXPECT_EQ(accelerate::internal::ema_decay(plain, 1), 0);
  EXPECT_EQ(accelerate::internal::ema_decay(plain, 2), 0.9);
  const EmaOptions late{.decay = 0.9, .update_after_step = 5};
  EXPECT_EQ(accelerate::internal::ema_decay(late, 6), 0);
  EXPECT_EQ(accelerate::internal::ema_decay(late, 7), 0.9);
}

TEST(EmaDecay, RisesAsItsFormulaSays) {
  // Update 3 is n = 2.
  const auto third = [](EmaOptions options) { return accelerate::internal::ema_decay(options, 3); };
  EXPECT_DOUBLE_EQ(third({.use_ema_warmup = true}), 1 - std::pow(3.0, -2.0 / 3.0));
  EXPECT_DOUBLE_EQ(third({.use_ema_warmup = true, .inv_gamma = 4, .power = 0.5}), 1 - std::pow(1.5, -0.5));
  EXPECT_DOUBLE_EQ(third({.ramp_up = true}), 3.0 / 12);
  EXPECT_DOUBLE_EQ(third({.decay = 0.2, .ramp_up = true}), 0.2);
  EXPECT_DOUBLE_EQ(third({.min_decay = 0.5, .ramp_up = true}), 0.5);
}

RC_GTEST_PROP(EmaDecay, RisesFromItsLeastToItsMost, ()) {
  EmaOptions options;
  options.decay = *rc::gen::inRange(0, 1001) / 1000.0;
  options.min_decay = options.decay * *rc::gen::inRange(0, 101) / 100.0;
  options.use_ema_warmup = *rc::gen::arbitrary<bool>();
  options.ramp_up = !options.use_ema_warmup && *rc::gen::arbitrary<bool>();
  options.inv_gamma = *rc::gen::inRange(1, 500) / 100.0;
  options.power = *rc::gen::inRange(1, 200) / 100.0;
  options.update_after_step = *rc::gen::inRange(0, 20);
  double before = 0;
  for (int64_t step = 1; step < 60; ++step) {
    const double decay = accelerate::internal::ema_decay(options, step);
    if (step <= options.update_after_step + 1) {
      RC_ASSERT(decay == 0);
      continue;
    }
    RC_ASSERT(decay >= options.min_decay && decay <= options.decay);
    RC_ASSERT(decay >= before);
    before = decay;
  }
  const bool rises = options.use_ema_warmup || options.ramp_up;
  if (!rises) RC_ASSERT(before == options.decay);
}

class EmaOfMlp : public testing::Test {
 protected:
  Accelerator accelerator;
  Mlp net{3};
  accelerate::Model<MlpImpl> model = accelerator.prepare(net);
};

TEST_F(EmaOfMlp, StartsWithTheWeightsThatTheModelHas) {
  const auto before = copy_of(net->parameters());
  Ema ema(model);
  become(*net, 7);
  EXPECT_TRUE(equal(averages_of(ema, *net), before)) << "without an update";
  EXPECT_EQ(ema.optimization_step(), 0);
}

TEST_F(EmaOfMlp, FollowsTheFormula) {
  Ema ema(model, {.decay = 0.75});
  double expected = 0;
  for (int step = 1; step <= 6; ++step) {
    become(*net, step * step);
    const auto update = ema.update(kApplied);
    EXPECT_TRUE(update.applied());
    EXPECT_EQ(update.decay(), step == 1 ? 0 : 0.75);
    EXPECT_EQ(ema.cur_decay_value(), update.decay());
    expected = step == 1 ? 1 : 0.75 * expected + 0.25 * step * step;
    for (const auto& average : averages_of(ema, *net)) EXPECT_NEAR(average.max().item<double>(), expected, 1e-12);
  }
  EXPECT_EQ(ema.optimization_step(), 6);
}

TEST_F(EmaOfMlp, CountsOnlyStepsThatChangedTheWeights) {
  Ema ema(model, {.decay = 0.5});
  const auto before = averages_of(ema, *net);
  become(*net, 4);
  EXPECT_FALSE(ema.update(kAccumulated).applied());
  EXPECT_FALSE(ema.update(kSkipped).applied());
  EXPECT_EQ(ema.optimization_step(), 0);
  EXPECT_TRUE(equal(averages_of(ema, *net), before));
  EXPECT_TRUE(ema.update(kApplied).applied());
  EXPECT_EQ(ema.optimization_step(), 1);
}

TEST_F(EmaOfMlp, IsUpdatedOnceAWindowInTheLoop) {
  for (const int64_t steps : {1, 2, 3}) {
    Accelerator trainer({.gradient_accumulation_steps = steps});
    Mlp other(4);
    auto [prepared, optimizer] = trainer.prepare(other, torch::optim::SGD(other->parameters(), 0.1));
    Ema ema(prepared, {.decay = 0.5});
    std::vector<at::Tensor> by_hand;
    for (int64_t micro = 0; micro < 6; ++micro) {
      auto window = trainer.accumulate(prepared);
      const auto [x, y] = training::make_batch(5, static_cast<uint64_t>(micro));
      trainer.backward(training::mse(prepared(x), y));
      const auto update = ema.update(optimizer.step());
      optimizer.zero_grad();
      EXPECT_EQ(update.applied(), trainer.sync_gradients());
      if (!update.applied()) continue;
      if (by_hand.empty()) by_hand = copy_of(other->parameters());
      for (size_t i = 0; i < by_hand.size(); ++i) by_hand[i] = 0.5 * by_hand[i] + 0.5 * other->parameters()[i].detach();
    }
    EXPECT_EQ(ema.optimization_step(), 6 / steps);
    EXPECT_LT(training::distance(averages_of(ema, *other), by_hand), 1e-14);
  }
}

TEST_F(EmaOfMlp, TheWeightsComeBackBitForBit) {
  Ema ema(model, {.decay = 0.9});
  ema.update(kApplied);
  become(*net, 1.0 / 3);
  ema.update(kApplied);
  const auto weights = copy_of(net->parameters());
  const auto [x, y] = training::make_batch(3, 1);
  const at::Tensor output = model(x);
  {
    const auto swapped = ema.apply();
    EXPECT_TRUE(ema.applied());
    EXPECT_FALSE(equal(net->parameters(), weights));
    EXPECT_FALSE(torch::equal(model(x), output)) << "the model computes with the averages";
  }
  EXPECT_FALSE(ema.applied());
  EXPECT_TRUE(equal(net->parameters(), weights));
  EXPECT_TRUE(torch::equal(model(x), output));
}

TEST_F(EmaOfMlp, AnExceptionBringsThemBack) {
  Ema ema(model);
  become(*net, 2);
  EXPECT_THROW(
      {
        const auto weights = ema.apply();
        throw std::runtime_error("in the evaluation");
      },
      std::runtime_error);
  EXPECT_FALSE(ema.applied());
  EXPECT_EQ(net->out->bias[0].item<double>(), 2);
}

TEST_F(EmaOfMlp, AMovedGuardEndsOnceAndOutlivesTheEma) {
  auto ema = std::make_unique<Ema>(model);
  become(*net, 2);
  {
    auto weights = ema->apply();
    ema.reset();
    const auto moved = std::move(weights);
    EXPECT_NE(net->out->bias[0].item<double>(), 2);
  }
  EXPECT_EQ(net->out->bias[0].item<double>(), 2);
}

TEST_F(EmaOfMlp, WhatTheEvaluationWritesIsLost) {
  Ema ema(model);
  const auto before = averages_of(ema, *net);
  {
    const auto weights = ema.apply();
    become(*net, 9);
  }
  EXPECT_TRUE(equal(averages_of(ema, *net), before));
  EXPECT_TRUE(equal(net->parameters(), before)) << "the averages were the weights";
}

TEST_F(EmaOfMlp, TrainsOnAfterAnEvaluationAsIfThereHadBeenNone) {
  const auto weights_after = [](bool evaluates) {
    Accelerator trainer;
    Mlp other(4);
    auto [prepared, optimizer] = trainer.prepare(other, torch::optim::AdamW(other->parameters(), 0.01));
    Ema ema(prepared, {.decay = 0.5});
    for (uint64_t step = 0; step < 8; ++step) {
      const auto [x, y] = training::make_batch(5, step);
      trainer.backward(training::mse(prepared(x), y));
      ema.update(optimizer.step());
      optimizer.zero_grad();
      if (!evaluates) continue;
      const torch::NoGradGuard no_grad;
      const auto weights = ema.apply();
      prepared(x);
    }
    return copy_of(other->parameters());
  };
  EXPECT_TRUE(equal(weights_after(true), weights_after(false)));
}

TEST_F(EmaOfMlp, CallsThatWouldMixAveragesAndWeightsAreRefused) {
  Ema ema(model);
  Written state;
  ema.save(state);
  const auto weights = ema.apply();
  const training::Words words{"Ema::apply", "guard of apply() is alive", "after that guard", "{ ... }"};
  expect_error<UsageError>([&] { auto again = ema.apply(); }, words);
  expect_error<UsageError>([&] { ema.update(kApplied); }, {"Ema::update", words.got, words.expected, words.remedy});
  expect_error<UsageError>([&] { ema.load(state); }, {"Ema::load", words.got, words.expected, words.remedy});
  EXPECT_TRUE(ema.applied()) << "what was refused changed nothing";
  Written during;
  ema.save(during);
  for (const auto& [name, tensor] : state.tensors) EXPECT_TRUE(torch::equal(during.tensors.at(name), tensor)) << name;
}

TEST_F(EmaOfMlp, InsideAnAutocastRegionNoCastOfTheOldWeightsIsUsed) {
  Accelerator low({.mixed_precision = "bf16"});
  Mlp other(3, torch::kFloat);
  auto prepared = low.prepare(other);
  Ema ema(prepared);
  become(*other, 0);
  const at::Tensor x = torch::ones({1, 4});
  const auto region = low.autocast();
  EXPECT_EQ(other->hidden(x).abs().max().item<double>(), 0) << "caches the cast of the zeros";
  const auto weights = ema.apply();
  EXPECT_NE(other->hidden(x).abs().max().item<double>(), 0);
}

TEST_F(EmaOfMlp, StateGoesThroughTheSeamAndTrainingGoesOnEqually) {
  Ema ema(model, {.decay = 0.8, .use_ema_warmup = true});
  for (int step = 0; step < 5; ++step) {
    become(*net, step);
    ema.update(kApplied);
  }
  Written state;
  ema.save(state);
  EXPECT_EQ(state.tensors.size(), 5u);
  EXPECT_EQ(state.tensors.at("n_averaged").item<int64_t>(), 5);
  EXPECT_EQ(state.tensors.at("module.hidden.weight").sizes(), net->hidden->weight.sizes());

  Mlp fresh(99);
  auto other = accelerator.prepare(fresh);
  Ema restored(other, {.decay = 0.8, .use_ema_warmup = true});
  restored.load(state);
  EXPECT_EQ(restored.optimization_step(), 5);
  become(*net, 11);
  become(*fresh, 11);
  EXPECT_EQ(ema.update(kApplied).decay(), restored.update(kApplied).decay());
  EXPECT_TRUE(equal(averages_of(ema, *net), averages_of(restored, *fresh)));
}

TEST_F(EmaOfMlp, FollowsAModelThatIsConverted) {
  Ema ema(model, {.decay = 0.5});
  become(*net, 1);
  ema.update(kApplied);
  net->to(torch::kFloat);
  become(*net, 3);
  ema.update(kApplied);
  const auto averages = averages_of(ema, *net);
  EXPECT_EQ(averages[0].scalar_type(), torch::kFloat);
  EXPECT_EQ(averages[0].max().item<double>(), 2);
}

TEST_F(EmaOfMlp, AWeightOfAnotherShapeIsRefusedBeforeAnythingChanges) {
  Ema ema(model, {.decay = 0.5});
  ema.update(kApplied);
  net->out->bias.set_data(torch::ones({3}, torch::kDouble));
  const training::Words words{"Ema::update", "[3] for `module.out.bias`", "[2]", "Build another Ema"};
  expect_error<UsageError>([&] { ema.update(kApplied); }, words);
  EXPECT_EQ(ema.optimization_step(), 1);
  expect_error<UsageError>([&] { auto weights = ema.apply(); },
                           {"Ema::apply", words.got, words.expected, words.remedy});
  EXPECT_FALSE(ema.applied());
  EXPECT_EQ(net->out->bias[0].item<double>(), 1) << "and is the user's own";
}

TEST(EmaOptionErrors, NameTheFieldItsValueAndItsRange) {
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare(net);
  const auto refused = [&](EmaOptions options, const char* got, const char* expected) {
    expect_error<ConfigError>([&] { Ema ema(model, options); }, {"Ema", got, expected, "default"});
  };
  refused({.decay = 1.5}, ".decay = 1.5", "0 to 1");
  refused({.decay = -0.1}, ".decay = -0.1", "0 to 1");
  refused({.decay = std::nan("")}, ".decay = nan", "0 to 1");
  refused({.decay = 0.5, .min_decay = 0.6}, ".min_decay = 0.6", "0 to .decay");
  refused({.min_decay = -1}, ".min_decay = -1", "0 to .decay");
  refused({.inv_gamma = 0}, ".inv_gamma = 0", "more than 0");
  refused({.power = -2}, ".power = -2", "more than 0");
  refused({.update_after_step = -3}, ".update_after_step = -3", "0 or more");
  expect_error<ConfigError>([&] { Ema ema(model, {.use_ema_warmup = true, .ramp_up = true}); },
                            {"Ema", ".use_ema_warmup and .ramp_up", "one of the two", "Drop .ramp_up"});
}

struct MixedImpl : torch::nn::Module {
  MixedImpl() {
    low = register_parameter("low", torch::zeros({2}, torch::kBFloat16));
    half = register_parameter("half", torch::zeros({2}, torch::kHalf));
    full = register_parameter("full", torch::zeros({2}));
    wide = register_parameter("wide", torch::zeros({2}, torch::kDouble));
    waves = register_parameter("waves", torch::zeros({2}, torch::kComplexFloat));
    frozen = register_parameter("frozen", torch::zeros({2}), /*requires_grad=*/false);
    table = register_parameter("table", torch::zeros({2}, torch::kLong), /*requires_grad=*/false);
    register_parameter("tied", full);
    norm = register_module("norm", torch::nn::BatchNorm1d(2));
  }
  at::Tensor forward(const at::Tensor& x) { return norm(x) * full; }
  at::Tensor low, half, full, wide, waves, frozen, table;
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Mixed);

class EmaOfMixed : public testing::Test {
 protected:
  void fill(double value) {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : net->parameters()) parameter.fill_(value);
    for (auto& buffer : net->buffers()) buffer.fill_(value);
  }
  Accelerator accelerator;
  Mixed net;
  accelerate::Model<MixedImpl> model = accelerator.prepare(net);
};

TEST_F(EmaOfMixed, EveryKindOfWeightIsAveragedAsPreciselyAsFloat32) {
  Ema ema(model, {.decay = 0.999});
  fill(1);
  ema.update(kApplied);
  fill(2);
  // 1 - decay is below the resolution of bfloat16 near 1: averaged there, they would never move.
  for (int step = 0; step < 1000; ++step) ema.update(kApplied);
  const double expected = 2 - std::pow(0.999, 1000);
  Written state;
  ema.save(state);
  for (const char* name : {"low", "half", "full", "wide", "frozen", "norm.weight", "norm.bias"}) {
    const at::Tensor average = state.tensors.at(std::string("module.") + name);
    EXPECT_NEAR(average[0].item<double>(), expected, 2e-5) << name << ", 1000 roundings of 6e-8 at most";
  }
  EXPECT_NEAR(at::real(state.tensors.at("module.waves"))[0].item<double>(), expected, 2e-5);
  EXPECT_EQ(state.tensors.at("module.low").scalar_type(), torch::kFloat);
  EXPECT_EQ(state.tensors.at("module.half").scalar_type(), torch::kFloat);
  EXPECT_EQ(state.tensors.at("module.wide").scalar_type(), torch::kDouble);
  EXPECT_FALSE(state.tensors.contains("module.tied")) << "tied weights have one average, under their first name";
  EXPECT_FALSE(state.tensors.contains("module.table")) << "whole numbers have none";
  EXPECT_FALSE(state.tensors.contains("module.norm.running_mean")) << "use_buffers is false";
  EXPECT_EQ(state.tensors.size(), 1u + 8u);
}

TEST_F(EmaOfMixed, SwappingKeepsDtypesAndLeavesTheRestAlone) {
  Ema ema(model, {.decay = 0.5});
  fill(1);
  ema.update(kApplied);
  fill(3);
  ema.update(kApplied);
  {
    const auto weights = ema.apply();
    EXPECT_EQ(net->low.scalar_type(), torch::kBFloat16);
    EXPECT_EQ(net->low[0].item<double>(), 2);
    EXPECT_EQ(net->full[0].item<double>(), 2) << "tied once: not 2.5 or 1.5";
    EXPECT_EQ(net->table[0].item<int64_t>(), 3);
    EXPECT_EQ(net->norm->running_mean[0].item<double>(), 3) << "buffers are the model's own";
    EXPECT_EQ(net->norm->num_batches_tracked.item<int64_t>(), 3);
  }
  EXPECT_EQ(net->low[0].item<double>(), 3);
  EXPECT_EQ(net->full[0].item<double>(), 3);
}

TEST_F(EmaOfMixed, BuffersAreAveragedOnRequest) {
  Ema ema(model, {.decay = 0.5, .use_buffers = true});
  fill(1);
  ema.update(kApplied);
  fill(3);
  ema.update(kApplied);
  {
    const auto weights = ema.apply();
    EXPECT_EQ(net->norm->running_mean[0].item<double>(), 2);
    EXPECT_EQ(net->norm->num_batches_tracked.item<int64_t>(), 3) << "a whole number";
    net->train();
    model(torch::rand({4, 2}));  // writes running statistics
  }
  EXPECT_EQ(net->norm->running_mean[0].item<double>(), 3);
}

TEST_F(EmaOfMixed, SeveralModelsHaveOneState) {
  Mlp other(2);
  auto second = accelerator.prepare(other);
  Ema ema(std::tie(model, second), {.decay = 0.5});
  fill(1);
  become(*other, 1);
  ema.update(kApplied);
  fill(3);
  become(*other, 5);
  ema.update(kApplied);
  Written state;
  ema.save(state);
  EXPECT_EQ(state.tensors.at("module.0.full")[0].item<double>(), 2);
  EXPECT_EQ(state.tensors.at("module.1.out.bias")[0].item<double>(), 3);
  const auto weights = ema.apply();
  EXPECT_EQ(net->full[0].item<double>(), 2);
  EXPECT_EQ(other->out->bias[0].item<double>(), 3);
}

TEST(EmaOfNothing, IsRefused) {
  Accelerator accelerator;
  auto model = accelerator.prepare(std::make_shared<torch::nn::ReLUImpl>());
  expect_error<UsageError>([&] { Ema ema(model); },
                           {"Ema", "without floating-point parameters", "at least one weight", "prepare()"});
}

TEST(EmaOfAnInferenceRegion, IsUpdatedOutsideIt) {
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare(net);
  std::unique_ptr<Ema> ema;
  {
    const c10::InferenceMode inference;
    ema = std::make_unique<Ema>(model, EmaOptions{.decay = 0.5});
    const auto weights = ema->apply();
  }
  become(*net, 1);
  EXPECT_TRUE(ema->update(kApplied).applied());
  become(*net, 3);
  EXPECT_TRUE(ema->update(kApplied).applied());
  EXPECT_EQ(averages_of(*ema, *net)[0].max().item<double>(), 2);
}

// Random sequences of updates, micro-steps and evaluations against the formula in double.
RC_GTEST_PROP(EmaTraces, AreThoseOfTheFormula, ()) {
  EmaOptions options;
  options.decay = *rc::gen::inRange(0, 1001) / 1000.0;
  options.use_ema_warmup = *rc::gen::arbitrary<bool>();
  options.update_after_step = *rc::gen::inRange(0, 5);
  Accelerator accelerator;
  Mlp net(1);
  auto model = accelerator.prepare(net);
  become(*net, 0);
  Ema ema(model, options);
  double expected = 0;
  int64_t count = 0;
  for (const int action : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 4))) {
    const double live = *rc::gen::inRange(-100, 101) / 10.0;
    become(*net, live);
    if (action == 0) {
      ema.update(kAccumulated);
    } else if (action == 1) {
      const auto weights = ema.apply();
      RC_ASSERT(std::abs(net->out->bias[0].item<double>() - expected) < 1e-12 * 10);
    } else {
      ema.update(kApplied);
      const double decay = accelerate::internal::ema_decay(options, ++count);
      expected = decay * expected + (1 - decay) * live;
    }
    RC_ASSERT(net->out->bias[0].item<double>() == live);
  }
  RC_ASSERT(ema.optimization_step() == count);
}

TEST(EmaMoved, SaysSoWhateverIsCalled) {
  Accelerator accelerator;
  auto model = accelerator.prepare(Mlp(1));
  Ema ema(model);
  accelerate::release_memory(ema);
  Written file;
  const std::function<void()> calls[] = {[&] { ema.update(kApplied); },  [&] { const auto weights = ema.apply(); },
                                         [&] { ema.applied(); },         [&] { ema.optimization_step(); },
                                         [&] { ema.cur_decay_value(); }, [&] { ema.save(file); },
                                         [&] { ema.load(file); }};
  for (const auto& call : calls) {
    expect_error<UsageError>(call, {"Ema", "moved from", "one that holds its averages", "Build another Ema"});
  }
  EXPECT_TRUE(file.tensors.empty());
}

}  // namespace
