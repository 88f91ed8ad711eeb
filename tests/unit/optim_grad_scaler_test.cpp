// fp16 with a scaled loss: what verbs do to gradients that carry the scale, in any order, and what cannot be.
#include <rapidcheck/gtest.h>

#include <limits>
#include <map>

#include "accelerate/optim/update.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::GradScalerKwargs;
using accelerate::UsageError;
using accelerate::internal::Counters;
using training::copy_of;
using training::distance;
using training::equal;
using training::expect_error;
using training::make_batch;
using training::Mlp;
using training::mse;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
/// Powers of two change no bit of what neither overflows nor vanishes.
constexpr double kScale = 256;

Accelerator scaled(GradScalerKwargs options = {.init_scale = kScale}, int64_t steps = 1) {
  return Accelerator({.mixed_precision = "fp16",
                      .gradient_accumulation_steps = steps,
                      .cpu = true,
                      .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
                      .scaler_handler = options});
}

std::vector<at::Tensor> gradients_of(const Mlp& net) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& parameter : net->parameters()) all.push_back(parameter.grad().clone());
  return all;
}

/// Autocast is off, so that scaling alone is looked at; in float64.
class Scaling : public testing::Test {
 protected:
  Mlp net{1}, plain{1};
  training::Batch batch = make_batch(5, 3);
  std::vector<at::Tensor> true_gradients() {
    plain->zero_grad();
    mse(plain(batch.x), batch.y).backward();
    return gradients_of(plain);
  }
};

TEST_F(Scaling, IsInTheGradientsUntilTheyAreLookedAt) {
  Accelerator accelerator = scaled();
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  const at::Tensor loss = mse(model(batch.x), batch.y);
  const double value = loss.item<double>();
  accelerator.backward(loss);
  EXPECT_EQ(loss.item<double>(), value) << "the caller's loss keeps its value";
  const auto expected = true_gradients();
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::equal(net->parameters()[i].grad(), expected[i] * kScale));
  }
  for (int time = 0; time < 2; ++time) {
    accelerator.unscale_gradients();
    EXPECT_TRUE(equal(gradients_of(net), expected)) << "once, however often it is asked for";
  }
  EXPECT_NEAR(accelerator.gradient_statistics(optimizer).groups.at(0).norm,
              accelerator.clip_grad_norm_(model, 1e9).norm.item<double>(), 1e-12);
  EXPECT_TRUE(optimizer.step().applied());
}

// In the original a second clip in one step raises.
TEST_F(Scaling, EveryClipSeesTrueGradients) {
  Accelerator accelerator = scaled();
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  accelerator.backward(mse(model(batch.x), batch.y));
  const double norm = accelerator.clip_grad_norm_(model, 1e9).norm.item<double>();
  EXPECT_NEAR(norm,
              accelerate::internal::clip_grad_norm((true_gradients(), plain->parameters()), {.max_norm = 1e9}, {})
                  .item<double>(),
              1e-12);
  accelerator.clip_grad_value_(net->parameters(), {.clip_value = 1e-3});
  for (const at::Tensor& gradient : gradients_of(net)) EXPECT_LE(gradient.abs().max().item<double>(), 1e-3);
  optimizer.step();
}

/// The host decides about an update, or the device does.
class ScalingWhoeverDecides : public Scaling, public testing::WithParamInterface<Counters> {};
INSTANTIATE_TEST_SUITE_P(Counters, ScalingWhoeverDecides,
                         testing::Values(Counters::kWithParameters, Counters::kOnDevice));

TEST_F(Scaling, AnUpdateThatIsNotFiniteIsLeftOutAndTheScheduleWaits) {
  for (const Counters counters : {Counters::kWithParameters, Counters::kOnDevice}) {
    Mlp net(1);
    Accelerator accelerator = scaled({.init_scale = kScale, .growth_interval = 1});
    auto [model, optimizer, scheduler] =
        accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1), accelerate::linear({.total_steps = 10}));
    optimizer.core()->update_with({.counters = counters});
    const auto update = [&, &model = model, &optimizer = optimizer, &scheduler = scheduler](double bad) {
      accelerator.backward(mse(model(batch.x), batch.y));
      if (bad != 0) net->out->bias.mutable_grad()[1] = bad;
      const accelerate::StepResult result = optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      return result;
    };
    EXPECT_TRUE(update(0).applied());
    EXPECT_EQ(accelerator.scaler()->get_scale(), 2 * kScale);
    const auto before = copy_of(net->parameters());
    const double rate = scheduler.get_last_lr().at(0);
    for (const double bad : {kInfinity, -kInfinity, std::nan("")}) {
      const accelerate::StepResult result = update(bad);
      EXPECT_TRUE(result.skipped());
      EXPECT_FALSE(result.applied() || result.accumulated());
      EXPECT_TRUE(accelerator.optimizer_step_was_skipped());
      EXPECT_TRUE(optimizer.step_was_skipped());
    }
    EXPECT_TRUE(equal(copy_of(net->parameters()), before));
    EXPECT_EQ(scheduler.get_last_lr().at(0), rate);
    EXPECT_EQ(accelerator.scaler()->get_scale(), kScale / 4);
    EXPECT_TRUE(update(0).applied());
    EXPECT_FALSE(accelerator.optimizer_step_was_skipped());
    EXPECT_LT(scheduler.get_last_lr().at(0), rate);
  }
}

/// Unscaled and clipped in one pass that reads and one that writes, where the device decides: the same numbers.
RC_GTEST_PROP(ScalingWithAClip, IsAClipOfTrueGradients, ()) {
  const double max_norm = *rc::gen::element(1e-3, 0.3, 1e9);
  const bool part = *rc::gen::arbitrary<bool>(), accumulates = *rc::gen::arbitrary<bool>();
  const int bad = *rc::gen::inRange(0, 3);
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  const auto [x, y] = make_batch(5, *rc::gen::arbitrary<uint32_t>(), torch::kFloat);
  std::vector<std::vector<at::Tensor>> values;
  for (const auto counters : {Counters::kWithParameters, Counters::kOnDevice}) {
    Accelerator accelerator = scaled({.init_scale = 512});
    Mlp net(1, torch::kFloat);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1));
    optimizer.core()->update_with({.counters = counters});
    accelerator.backward(mse(model(x), y));
    if (accumulates) accelerator.backward(mse(model(x * 2), y));
    if (bad == 2) net->hidden->weight.mutable_grad()[0][0] = std::nanf("");
    const auto parameters = part ? net->out->parameters() : net->parameters();
    const at::Tensor norm = accelerator.clip_grad_norm_(parameters, {.max_norm = max_norm});
    values.push_back({norm});
    for (const at::Tensor& gradient : gradients_of(net)) values.back().push_back(gradient);
    RC_ASSERT(optimizer.step().skipped() == (bad == 2));
    for (const at::Tensor& parameter : copy_of(net->parameters())) values.back().push_back(parameter);
  }
  for (size_t i = 0; i < values[0].size(); ++i) {
    RC_ASSERT(torch::allclose(values[0][i], values[1][i], 1e-5, 1e-7, /*equal_nan=*/true));
  }
}

/// Verbs in an order that nobody chose: each update is still that of a loop without a scale.
RC_GTEST_PROP(ScalingOfSeveralOptimizers, ChangesNothingWhateverTheOrderOfVerbs, ()) {
  const auto verbs = *rc::gen::container<std::vector<int>>(*rc::gen::inRange<size_t>(1, 30), rc::gen::inRange(0, 8));
  const bool to_none = *rc::gen::arbitrary<bool>();
  const int64_t interval = *rc::gen::inRange<int64_t>(1, 4);
  const auto counters = *rc::gen::element(Counters::kWithParameters, Counters::kOnDevice);
  const auto run = [&](Accelerator accelerator) {
    Mlp first_net(1), second_net(2);
    auto [first, second, of_first, of_second] = accelerator.prepare(
        first_net, second_net, torch::optim::SGD(first_net->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9)),
        torch::optim::SGD(second_net->parameters(), 0.05));
    of_first.core()->update_with({.counters = counters});
    of_second.core()->update_with({.counters = counters});
    const auto [x, y] = make_batch(4, 9);
    const auto has_gradients = [](const Mlp& net) { return net->out->bias.grad().defined(); };
    for (const int verb : verbs) {
      if (verb == 0) accelerator.backward(mse(first(x), y));
      if (verb == 1) accelerator.backward(mse(second(x), y) + mse(first(x), y));
      if (verb == 2) of_first.step();
      if (verb == 3) of_second.step();
      if (verb == 4) of_first.zero_grad({.set_to_none = to_none});
      if (verb == 5) of_second.zero_grad({.set_to_none = to_none});
      if (verb == 6 && has_gradients(first_net)) accelerator.clip_grad_norm_(first, 0.5);
      if (verb == 7) accelerator.unscale_gradients();
    }
    auto values = copy_of(first_net->parameters());
    for (const at::Tensor& value : copy_of(second_net->parameters())) values.push_back(value);
    accelerator.unscale_gradients();
    for (const Mlp& net : {first_net, second_net}) {
      for (const at::Tensor& parameter : net->parameters()) {
        if (parameter.grad().defined()) values.push_back(parameter.grad().clone());
      }
    }
    return values;
  };
  const auto with = run(scaled({.init_scale = kScale, .growth_interval = interval}));
  const auto without = run(Accelerator({.cpu = true}));
  RC_ASSERT(with.size() == without.size());
  RC_ASSERT(distance(with, without) < 1e-10);
}

/// In the original the first step changes the scale before the second one.
TEST_P(ScalingWhoeverDecides, IsUpdatedOnceHoweverManyOptimizersStep) {
  Accelerator accelerator = scaled({.init_scale = kScale, .growth_interval = 1});
  Mlp other(2);
  auto [model, second, of_model, of_second] = accelerator.prepare(net, other, torch::optim::SGD(net->parameters(), 0.1),
                                                                  torch::optim::SGD(other->parameters(), 0.1));
  accelerator.backward(mse(model(batch.x), batch.y) + mse(second(batch.x), batch.y));
  net->out->bias.mutable_grad()[0] = kInfinity;
  of_model.core()->update_with({.counters = GetParam()});
  of_second.core()->update_with({.counters = GetParam()});
  EXPECT_TRUE(of_model.step().skipped());
  EXPECT_TRUE(of_second.step().applied()) << "its own gradients are finite";
  EXPECT_EQ(accelerator.scaler()->get_scale(), kScale / 2) << "once, and not grown again by the second";
  EXPECT_TRUE(accelerator.optimizer_step_was_skipped());
}

TEST_F(Scaling, IsAccumulatedOverMicroSteps) {
  for (const int64_t micro_steps : {2, 3}) {
    Mlp with(1), without(1);
    const auto train = [&](Accelerator accelerator, Mlp& own) {
      auto [model, optimizer] = accelerator.prepare(own, torch::optim::AdamW(own->parameters(), 0.05));
      for (int64_t i = 0; i < 3 * micro_steps; ++i) {
        const auto window = accelerator.accumulate(model);
        const auto [x, y] = make_batch(4, static_cast<uint64_t>(i));
        accelerator.backward(mse(model(x), y));
        accelerator.clip_grad_norm_(model, 0.3);
        optimizer.step();
        optimizer.zero_grad();
      }
    };
    train(scaled({.init_scale = kScale, .growth_interval = 1}, micro_steps), with);
    train(Accelerator({.gradient_accumulation_steps = micro_steps, .cpu = true}), without);
    EXPECT_LT(distance(copy_of(with->parameters()), copy_of(without->parameters())), 1e-12);
  }
}

/// What it saves is what counts, also between an update and the pass after it; what it loads it goes on from.
TEST_F(Scaling, IsSavedAndGoesOn) {
  struct Stored : accelerate::StateWriter, accelerate::StateReader {
    std::map<std::string, at::Tensor> tensors;
    void write(const accelerate::ShardedTensor& tensor) override { tensors[tensor.name] = tensor.local.clone(); }
    void read(const accelerate::ShardedTensor& tensor) override {
      at::Tensor(tensor.local).copy_(tensors.at(tensor.name));
    }
  } stored;
  const auto update = [&](auto& accelerator, auto& model, auto& optimizer) {
    optimizer.zero_grad();
    accelerator.backward(mse(model(batch.x), batch.y));
    optimizer.step();
  };
  Accelerator first = scaled({.init_scale = kScale, .growth_interval = 3});
  auto [model, optimizer] = first.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  for (int i = 0; i < 4; ++i) update(first, model, optimizer);
  first.scaler()->save(stored);
  EXPECT_EQ(stored.tensors.at("scale").item<double>(), 2 * kScale);
  EXPECT_EQ(stored.tensors.at("_growth_tracker").item<int64_t>(), 1);
  Accelerator second = scaled({.init_scale = 1, .growth_interval = 3});
  auto [other, of_other] = second.prepare(plain, torch::optim::SGD(plain->parameters(), 0.1));
  update(second, other, of_other);
  second.scaler()->load(stored);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(second.scaler()->get_scale(), first.scaler()->get_scale()) << i;
    EXPECT_EQ(second.scaler()->get_growth_tracker(), first.scaler()->get_growth_tracker()) << i;
    update(first, model, optimizer);
    update(second, other, of_other);
  }
}

TEST_F(Scaling, CanBeSwitchedOff) {
  Accelerator accelerator = scaled({.enabled = false});
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1));
  EXPECT_FALSE(accelerator.scaler()->is_enabled());
  EXPECT_EQ(accelerator.scaler()->get_scale(), 1);
  accelerator.backward(mse(model(batch.x), batch.y));
  EXPECT_TRUE(equal(gradients_of(net), true_gradients()));
  net->out->bias.mutable_grad()[0] = kInfinity;
  EXPECT_TRUE(optimizer.step().applied()) << "nobody looks";
}

TEST_F(Scaling, HandlesSparseGradients) {
  Accelerator accelerator = scaled();
  torch::nn::Embedding words(torch::nn::EmbeddingOptions(6, 3).sparse(true));
  auto [model, optimizer] = accelerator.prepare(words, torch::optim::SGD(words->parameters(), 1.0));
  const auto before = words->weight.detach().clone();
  accelerator.backward(model(torch::tensor({1, 1, 4})).sum());
  EXPECT_TRUE(optimizer.step().applied());
  const at::Tensor moved = before - words->weight.detach();
  EXPECT_TRUE(torch::allclose(moved.sum(1), torch::tensor({0.0F, 6.0F, 0.0F, 0.0F, 3.0F, 0.0F})));
}

TEST_F(Scaling, IsRefusedWhereItCannotWork) {
  Accelerator accelerator = scaled();
  Mlp half(1, torch::kHalf);
  auto [model, optimizer] = accelerator.prepare(half, torch::optim::SGD(half->parameters(), 0.1));
  accelerator.backward(half->out->bias.sum());
  expect_error<UsageError>(
      [&, &optimizer = optimizer] { optimizer.step(); },
      {"unscale_gradients", "parameters of float16", "float32, which autocast converts", "the precision converts"});
  expect_error<UsageError>([&, &optimizer = optimizer] { optimizer.step([] { return torch::zeros({}); }); },
                           {"optimizer.step", "step(closure)", "after accelerator.backward(loss)", "scales no loss"});
}

TEST_F(Scaling, OptionsOutOfRangeAreNamed) {
  const auto refused = [](GradScalerKwargs options, const std::string& got) {
    expect_error<ConfigError>([&] { scaled(options); }, {"scaler_handler", got, "", "GradScalerKwargs"});
  };
  refused({.init_scale = 0}, ".init_scale = 0");
  refused({.init_scale = 1e300}, ".init_scale = 1e+300");
  refused({.growth_factor = 1}, ".growth_factor = 1");
  refused({.backoff_factor = 1}, ".backoff_factor = 1");
  refused({.backoff_factor = 0}, ".backoff_factor = 0");
  refused({.growth_interval = 0}, ".growth_interval = 0");
}

// A check of the original: the argument object's values are the scaler's.
TEST_F(Scaling, TakesItsArgumentObject) {
  const Accelerator accelerator({.mixed_precision = "fp16",
                                 .cpu = true,
                                 .scaler_handler = GradScalerKwargs{.init_scale = 1024, .growth_factor = 2}});
  EXPECT_EQ(accelerator.mixed_precision(), "fp16");
  EXPECT_TRUE(accelerator.native_amp());
  const accelerate::GradScaler& scaler = *accelerator.scaler();
  EXPECT_TRUE(scaler.is_enabled());
  EXPECT_EQ(scaler.get_scale(), 1024);
  EXPECT_EQ(scaler.get_growth_factor(), 2);
  EXPECT_EQ(scaler.get_backoff_factor(), 0.5);
  EXPECT_EQ(scaler.get_growth_interval(), 2000);
  EXPECT_EQ(Accelerator({.mixed_precision = "bf16", .cpu = true}).scaler(), nullptr);
}

TEST_F(Scaling, ComputesInFloat16AndGivesFloat32Back) {
  Accelerator accelerator({.mixed_precision = "fp16", .cpu = true});
  Mlp single(1, torch::kFloat);
  auto [model, optimizer] = accelerator.prepare(single, torch::optim::AdamW(single->parameters(), 0.01));
  const auto [x, y] = make_batch(8, 3, torch::kFloat);
  EXPECT_EQ(model(x).scalar_type(), torch::kFloat);
  EXPECT_FALSE(torch::equal(model(x), single(x))) << "rounded to 11 bits on the way";
  {
    const auto scope = accelerator.autocast();
    EXPECT_EQ(torch::mm(x, x.t()).scalar_type(), torch::kHalf);
    {
      const auto full = accelerator.autocast({.enabled = false});
      EXPECT_EQ(torch::mm(x, x.t()).scalar_type(), torch::kFloat);
    }
    EXPECT_EQ(torch::mm(x, x.t()).scalar_type(), torch::kHalf);
  }
  double first = 0, last = 0;
  for (int i = 0; i < 60; ++i) {
    const at::Tensor loss = mse(model(x), y);
    (i == 0 ? first : last) = loss.item<double>();
    accelerator.backward(loss);
    optimizer.step();
    optimizer.zero_grad();
  }
  EXPECT_LT(last, first / 2);
  EXPECT_TRUE(torch::allclose(model(x.to(torch::kHalf)), model(x), 1e-2, 1e-2)) << "float16 goes in as well";
}

}  // namespace
