// Averages that follow an optimizer by themselves: the numbers of `update(optimizer.step())` bit for bit, whoever
// writes them, and what goes wrong in between.
#include <rapidcheck/gtest.h>

#include <map>
#include <memory>
#include <optional>

#include "accelerate/optim/ema_core.h"
#include "accelerate/optim/lion.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::Ema;
using accelerate::EmaOptions;
using accelerate::StepResult;
using accelerate::UsageError;
using accelerate::internal::Counters;
using training::copy_of;
using training::equal;
using training::expect_error;
using training::Mlp;
using training::MlpImpl;

/// Who says that the averages follow.
enum class Follows { kByCall, kByItself };

/// Layers of several sizes, one that is not used in every step, one that is frozen, a norm with buffers, and a weight
/// that lies otherwise.
struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", torch::nn::Linear(4, 7));
    seldom = register_module("seldom", torch::nn::Linear(7, 7));
    frozen = register_module("frozen", torch::nn::Linear(7, 7));
    norm = register_module("norm", torch::nn::BatchNorm1d(7));
    out = register_module("out", torch::nn::Linear(7, 2));
    scale = register_parameter("scale", torch::ones({}));
    for (auto& parameter : frozen->parameters()) parameter.set_requires_grad(false);
    const torch::NoGradGuard no_grad;
    seldom->weight.set_data(seldom->weight.t().contiguous().t());
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor h = norm(torch::tanh(first(x)));
    if (deep) h = torch::tanh(seldom(h));
    return out(frozen(h)) * scale;
  }
  bool deep = true;
  torch::nn::Linear first{nullptr}, seldom{nullptr}, frozen{nullptr}, out{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  at::Tensor scale;
};
TORCH_MODULE(Net);

struct Case {
  std::string optimizer = "adamw";
  std::string precision = "no";
  at::ScalarType dtype = torch::kFloat;  ///< of the weights before they are prepared
  Counters counters = Counters::kOnDevice;
  EmaOptions options = {.decay = 0.8};
  int64_t accumulate = 1;
  std::vector<int> steps = {};  ///< 1: without the layer that is seldom used, 2: with a gradient that is not finite
  bool two_groups = false;
  bool clips = false;
  bool averages_all = true;  ///< false: a second model that the optimizer trains, too, is not averaged
  int loads_before = -1;
};

void showValue(const Case& one, std::ostream& os) {
  os << one.optimizer << ", " << one.precision << ", " << one.dtype << ", counters " << static_cast<int>(one.counters)
     << ", decay " << one.options.decay << ", accumulate " << one.accumulate << ", groups " << one.two_groups
     << ", clips " << one.clips << ", all " << one.averages_all << ", loads before " << one.loads_before << ", steps";
  for (const int step : one.steps) os << ' ' << step;
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::string& name, std::vector<at::Tensor> parameters,
                                                        bool two_groups) {
  using torch::optim::OptimizerParamGroup;
  std::vector<OptimizerParamGroup> groups;
  if (two_groups) {
    const auto middle = parameters.begin() + static_cast<std::ptrdiff_t>(parameters.size() / 2);
    groups.emplace_back(std::vector<at::Tensor>(parameters.begin(), middle));
    groups.emplace_back(std::vector<at::Tensor>(middle, parameters.end()));
  } else {
    groups.emplace_back(std::move(parameters));
  }
  if (name == "adamw") return std::make_unique<torch::optim::AdamW>(groups, torch::optim::AdamWOptions(0.05));
  if (name == "amsgrad") {
    return std::make_unique<torch::optim::Adam>(groups, torch::optim::AdamOptions(0.05).amsgrad(true));
  }
  if (name == "sgd") return std::make_unique<torch::optim::SGD>(groups, torch::optim::SGDOptions(0.05));
  if (name == "momentum") {
    return std::make_unique<torch::optim::SGD>(groups, torch::optim::SGDOptions(0.05).momentum(0.9).dampening(0.1));
  }
  if (name == "lion") return std::make_unique<accelerate::Lion>(groups, accelerate::LionOptions(0.01));
  if (name == "adagrad") return std::make_unique<torch::optim::Adagrad>(groups, torch::optim::AdagradOptions(0.05));
  return std::make_unique<torch::optim::RMSprop>(groups, torch::optim::RMSpropOptions(0.01));
}

struct Written : accelerate::StateWriter, accelerate::StateReader {
  void write(const accelerate::ShardedTensor& tensor) override {
    names.push_back(tensor.name);
    tensors.push_back(tensor.local.detach().clone());
  }
  void read(const accelerate::ShardedTensor& tensor) override {
    const torch::NoGradGuard no_grad;
    at::Tensor local = tensor.local;
    local.copy_(tensors[next++]);
  }
  std::vector<std::string> names;
  std::vector<at::Tensor> tensors;
  size_t next = 0;
};

struct Trained {
  std::vector<at::Tensor> weights, averages;
  std::vector<int64_t> counts;
  std::vector<double> decays;
};

Trained train(const Case& one, Follows follows) {
  Accelerator accelerator({.mixed_precision = one.precision,
                           .gradient_accumulation_steps = one.accumulate,
                           .cpu = true,
                           .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 64, .growth_interval = 4},
                           .log_sink = [](accelerate::LogLevel, std::string_view) {}});
  torch::manual_seed(11);
  Net net, other;
  for (Net* each : {&net, &other}) (*each)->to(one.dtype);
  std::vector<at::Tensor> parameters = net->parameters();
  for (const at::Tensor& parameter : other->parameters()) parameters.push_back(parameter);
  std::shared_ptr<torch::optim::Optimizer> stock = make_optimizer(one.optimizer, parameters, one.two_groups);
  auto [model, second, optimizer] = accelerator.prepare(net, other, stock);
  if (one.counters == Counters::kOnDevice) {
    auto update = optimizer.core()->update_options();
    update.counters = Counters::kOnDevice;
    optimizer.core()->update_with(update);
  }
  std::optional<Ema> ema;
  if (one.averages_all) {
    ema.emplace(std::tie(model, second), one.options);
  } else {
    ema.emplace(model, one.options);
  }
  ema->core()->count_with(one.counters);
  Written begin;
  ema->save(begin);
  if (follows == Follows::kByItself) ema->follow(optimizer);
  Trained trained;
  const auto note = [&] {
    trained.counts.push_back(ema->optimization_step());
    trained.decays.push_back(ema->cur_decay_value());
  };
  for (size_t step = 0; step < one.steps.size(); ++step) {
    if (static_cast<int>(step) == one.loads_before) {
      begin.next = 0;
      ema->load(begin);
    }
    for (int64_t micro = 0; micro < one.accumulate; ++micro) {
      auto window = accelerator.accumulate(model, second);
      net->deep = one.steps[step] != 1;
      torch::manual_seed(100 * step + static_cast<uint64_t>(micro));
      const at::Tensor x = torch::randn({6, 4}, one.dtype), y = torch::randn({6, 2});
      const at::Tensor output = model(x) + second(x);
      accelerator.backward(training::mse(output.to(torch::kFloat), y));
      if (one.steps[step] == 2 && accelerator.sync_gradients()) {
        net->out->bias.mutable_grad().fill_(std::numeric_limits<float>::infinity());
      }
      if (one.clips && accelerator.sync_gradients()) accelerator.clip_grad_norm_(parameters, 0.25);
      const StepResult result = optimizer.step();
      if (follows == Follows::kByCall) ema->update(result);
      optimizer.zero_grad();
    }
    if (step % 3 == 2) note();
  }
  note();
  trained.weights = copy_of(parameters);
  Written end;
  ema->save(end);
  trained.averages = end.tensors;
  return trained;
}

bool equal_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].scalar_type() != b[i].scalar_type() || !torch::allclose(a[i], b[i], 0, 0, /*equal_nan=*/true))
      return false;
  }
  return a.size() == b.size();
}

// Random optimizers, precisions, options, groups, steps that leave a layer out, accumulate, are skipped or follow a
// load: the weights and averages of `update(optimizer.step())`, bit for bit.
RC_GTEST_PROP(EmaFollow, IsTheUpdateAfterEachStepBitForBit, ()) {
  Case one;
  one.optimizer = *rc::gen::element<std::string>("adamw", "amsgrad", "sgd", "momentum", "lion", "adagrad", "rmsprop");
  one.precision = *rc::gen::element<std::string>("no", "no", "bf16", "fp16", "bf16_master", "bf16_stochastic");
  if (one.precision == "no") {
    one.dtype = *rc::gen::element(torch::kFloat, torch::kFloat, torch::kDouble, torch::kBFloat16);
  }
  // LibTorch's own kernels and steps of the host are compared with themselves as well.
  one.counters = *rc::gen::element(Counters::kOnDevice, Counters::kOnDevice, Counters::kWithParameters);
  one.options.decay = *rc::gen::element(0.0, 0.3, 0.8, 0.999, 1.0);
  one.options.use_ema_warmup = *rc::gen::arbitrary<bool>();
  one.options.ramp_up = !one.options.use_ema_warmup && *rc::gen::arbitrary<bool>();
  one.options.update_after_step = *rc::gen::inRange(0, 3);
  one.options.use_buffers = *rc::gen::arbitrary<bool>();
  one.accumulate = *rc::gen::inRange<int64_t>(1, 3);
  one.two_groups = *rc::gen::arbitrary<bool>();
  one.clips = *rc::gen::arbitrary<bool>();
  one.averages_all = *rc::gen::arbitrary<bool>();
  one.steps = *rc::gen::container<std::vector<int>>(*rc::gen::inRange<size_t>(1, 9), rc::gen::inRange(0, 2));
  if (one.precision == "fp16") {
    for (int& step : one.steps) step = *rc::gen::inRange(0, 5) == 0 ? 2 : step;
  }
  one.loads_before = *rc::gen::inRange(-1, 5);
  RC_LOG() << "";
  showValue(one, RC_LOG());
  const Trained called = train(one, Follows::kByCall), followed = train(one, Follows::kByItself);
  RC_ASSERT(equal_bits(called.weights, followed.weights));
  RC_ASSERT(equal_bits(called.averages, followed.averages));
  RC_ASSERT(called.counts == followed.counts);
  RC_ASSERT(called.decays == followed.decays);
}

class EmaFollowing : public testing::Test {
 protected:
  void step(uint64_t seed = 1) {
    const auto [x, y] = training::make_batch(5, seed);
    accelerator.backward(training::mse(model(x), y));
    optimizer.step();
    optimizer.zero_grad();
  }
  std::vector<at::Tensor> averages_of(Ema& ema) {
    const auto weights = ema.apply();
    return copy_of(net->parameters());
  }
  Accelerator accelerator{{.cpu = true}};
  Mlp net{3};
  accelerate::Model<MlpImpl> model = accelerator.prepare(net);
  accelerate::Optimizer optimizer = accelerator.prepare(torch::optim::AdamW(net->parameters(), 0.05));
};

/// What is followed is what the formula says, with nothing of this library's beside it.
TEST_F(EmaFollowing, FollowsTheFormula) {
  for (const auto counters : {Counters::kWithParameters, Counters::kOnDevice}) {
    optimizer.core()->update_with({.counters = counters});
    Ema ema(model, {.decay = 0.75});
    ema.core()->count_with(counters);
    ema.follow(optimizer);
    std::vector<at::Tensor> expected;
    for (uint64_t i = 0; i < 6; ++i) {
      step(i);
      const auto weights = copy_of(net->parameters());
      if (i == 0) expected = weights;
      for (size_t p = 0; p < weights.size() && i > 0; ++p) expected[p] = 0.75 * expected[p] + 0.25 * weights[p];
      EXPECT_EQ(ema.optimization_step(), static_cast<int64_t>(i + 1));
      EXPECT_EQ(ema.cur_decay_value(), i == 0 ? 0 : 0.75);
      EXPECT_LT(training::distance(averages_of(ema), expected), 1e-15);
    }
  }
}

/// An optimizer of one's own, and one that asks for the loss again.
TEST_F(EmaFollowing, FollowsAClosureAndLbfgs) {
  auto lbfgs = accelerator.prepare(torch::optim::LBFGS(net->parameters(), torch::optim::LBFGSOptions(0.1).max_iter(3)));
  const auto [x, y] = training::make_batch(5, 1);
  for (const auto& each : {optimizer, lbfgs}) {
    Ema ema(model, {.decay = 0.5}), called(model, {.decay = 0.5});
    ema.follow(each);
    for (int i = 0; i < 4; ++i) {
      const StepResult result = each.step([&, &x = x, &y = y] {
        each.zero_grad();
        const at::Tensor loss = training::mse(model(x), y);
        accelerator.backward(loss);
        return loss;
      });
      called.update(result);
    }
    EXPECT_EQ(ema.optimization_step(), 4);
    EXPECT_TRUE(equal(averages_of(ema), averages_of(called)));
  }
}

TEST_F(EmaFollowing, UpdateIsRefusedAsLongAsBothLive) {
  Ema ema(model);
  {
    auto short_lived = accelerator.prepare(torch::optim::SGD(net->parameters(), 0.1));
    ema.follow(short_lived);
    ema.follow(short_lived);  // once more says nothing new
    expect_error<UsageError>([&] { ema.update(StepResult(StepResult::Outcome::kAccumulated)); },
                             {"Ema::update", "update(result) after follow(optimizer)", "each step is followed once",
                              "Drop this call, or do not call follow()"});
  }
  EXPECT_TRUE(ema.update(StepResult(StepResult::Outcome::kApplied)).applied()) << "the optimizer is gone";
  ema.follow(optimizer);
  step();
  EXPECT_EQ(ema.optimization_step(), 2);
}

TEST_F(EmaFollowing, IsOneEmaOfOneOptimizerThatHasSomeOfTheWeights) {
  Mlp others(4);
  auto second_model = accelerator.prepare(others);
  auto second = accelerator.prepare(torch::optim::SGD(others->parameters(), 0.1));
  Ema ema(model), same(model);
  expect_error<UsageError>([&] { ema.follow(second); }, {"Ema::follow", "an optimizer of other parameters",
                                                         "the one that trains the model", "that model's optimizer"});
  Ema both(std::tie(model, second_model), {.decay = 0.5});
  both.follow(second);
  expect_error<UsageError>([&] { both.follow(optimizer); }, {"Ema::follow", "a second optimizer",
                                                             "one, whose steps are counted", "call update(result)"});
  ema.follow(optimizer);
  expect_error<UsageError>([&] { same.follow(optimizer); },
                           {"Ema::follow", "a second one", "one that its kernels write", "Call update"});
  step();
  EXPECT_EQ(ema.optimization_step(), 1);
  EXPECT_EQ(both.optimization_step(), 0) << "its optimizer is the other one";
  EXPECT_EQ(same.update(StepResult(StepResult::Outcome::kApplied)).applied(), true);
}

/// GAN: the averages of both models are counted by the optimizer that steps last.
TEST_F(EmaFollowing, WeightsOfOtherOptimizersFollowAsTheyAre) {
  Mlp others(4);
  auto second_model = accelerator.prepare(others);
  auto last = accelerator.prepare(torch::optim::SGD(others->parameters(), 0.1));
  Ema ema(std::tie(model, second_model), {.decay = 0.5}), called(std::tie(model, second_model), {.decay = 0.5});
  ema.follow(last);
  for (uint64_t i = 0; i < 4; ++i) {
    const auto [x, y] = training::make_batch(5, i);
    accelerator.backward(training::mse(model(x) + second_model(x), y));
    optimizer.step();
    called.update(last.step());
    optimizer.zero_grad();
    last.zero_grad();
  }
  EXPECT_EQ(ema.optimization_step(), 4);
  Written a, b;
  ema.save(a);
  called.save(b);
  EXPECT_TRUE(equal(a.tensors, b.tensors));
}

TEST_F(EmaFollowing, AMovedEmaGoesOnAndADestroyedOneIsForgotten) {
  std::vector<at::Tensor> weights;
  for (const bool follows : {false, true}) {
    Mlp fresh(7);
    auto other = accelerator.prepare(fresh);
    auto adamw = accelerator.prepare(torch::optim::AdamW(fresh->parameters(), 0.05));
    auto ema = std::make_unique<Ema>(other);
    if (follows) ema->follow(adamw);
    for (uint64_t i = 0; i < 6; ++i) {
      if (i == 2) ema = std::make_unique<Ema>(std::move(*ema));
      if (follows && i == 4) {
        EXPECT_EQ(ema->optimization_step(), 4);
      }
      if (i == 4) ema.reset();
      const auto [x, y] = training::make_batch(5, i);
      accelerator.backward(training::mse(other(x), y));
      adamw.step();
      adamw.zero_grad();
    }
    if (!follows) weights = copy_of(fresh->parameters());
    if (follows) {
      EXPECT_TRUE(equal(copy_of(fresh->parameters()), weights));
    }
    Ema next(other);
    next.follow(adamw);  // the place is free again
  }
}

TEST_F(EmaFollowing, HandlesThatStandForNothingAreRefused) {
  Ema ema(model);
  Ema taken = std::move(ema);
  expect_error<UsageError>([&] { ema.follow(optimizer); }, {"Ema", "moved from", "holds its averages", "moved to"});
  const accelerate::Optimizer moved = std::move(optimizer);
  EXPECT_THROW(taken.follow(optimizer), UsageError);
  taken.follow(moved);
}

TEST_F(EmaFollowing, AStepWhileTheAveragesAreAppliedChangesNothing) {
  for (const int64_t accumulation : {2, 1}) {
    accelerator.set_gradient_accumulation_steps(accumulation);
    Ema ema(model, {.decay = 0.5});
    ema.follow(optimizer);
    const auto [x, y] = training::make_batch(5, 1);
    auto window = accelerator.accumulate(model);
    accelerator.backward(training::mse(model(x), y));
    const auto before = copy_of(net->parameters());
    {
      const auto weights = ema.apply();
      expect_error<UsageError>([&] { optimizer.step(); }, {"optimizer.step", "a call while a guard of apply() is alive",
                                                           "it after that guard has ended", "{ ... }"});
    }
    EXPECT_TRUE(equal(net->parameters(), before));
    EXPECT_EQ(ema.optimization_step(), 0);
    EXPECT_EQ(optimizer.step().applied(), accumulation == 1) << "the same window";
    EXPECT_EQ(ema.optimization_step(), accumulation == 1 ? 1 : 0);
  }
}

TEST_F(EmaFollowing, AWeightOfAnotherShapeIsRefusedBeforeTheStep) {
  Ema ema(model, {.decay = 0.5});
  ema.follow(optimizer);
  step();
  const auto before = copy_of({net->hidden->weight, net->hidden->bias, net->out->weight});
  const auto [x, y] = training::make_batch(5, 1);
  accelerator.backward(training::mse(model(x), y));
  const at::Tensor old = net->out->bias.detach().clone(), gradient = net->out->bias.grad();
  net->out->bias.mutable_grad().reset();
  net->out->bias.set_data(torch::ones({3}, torch::kDouble));
  expect_error<UsageError>([&] { optimizer.step(); },
                           {"optimizer.step", "[3] for `module.out.bias`", "[2]", "Build another Ema"});
  EXPECT_TRUE(equal(copy_of({net->hidden->weight, net->hidden->bias, net->out->weight}), before));
  EXPECT_EQ(ema.optimization_step(), 1);
  net->out->bias.set_data(old);
  net->out->bias.mutable_grad() = gradient;
  optimizer.step();
  EXPECT_EQ(ema.optimization_step(), 2);
}

/// Which operators a step calls says who writes the averages.
TEST_F(EmaFollowing, KernelsWriteWhatTheyUpdateAndOnePassTheRest) {
  Net mixed;
  auto prepared = accelerator.prepare(mixed);
  const auto calls_of = [&](const accelerate::Optimizer& each, Ema& ema, Follows follows) {
    if (follows == Follows::kByItself) ema.follow(each);
    auto profiler = accelerator.profile({.activities = {"cpu"}});
    for (int i = 0; i < 3; ++i) {
      accelerator.backward(prepared(torch::randn({6, 4})).pow(2).mean());
      const StepResult result = each.step();
      if (follows == Follows::kByCall) ema.update(result);
      each.zero_grad();
    }
    profiler.finish();
    std::map<std::string, int64_t> calls;
    for (const auto& event : profiler.key_averages()) {
      if (event.key.starts_with("accelerate::") || event.key.starts_with("aten::_foreach_lerp")) {
        calls[event.key] += event.count;
      }
    }
    return calls;
  };
  using Calls = std::map<std::string, int64_t>;
  for (auto* parameter : {&mixed->frozen->weight, &mixed->frozen->bias}) parameter->set_requires_grad(true);
  for (const char* name : {"adamw", "sgd", "lion"}) {
    const std::string update = std::string("accelerate::fused_") + name + '_';
    const auto optimizer_of = [&](bool two_groups) {
      std::shared_ptr<torch::optim::Optimizer> stock = make_optimizer(name, mixed->parameters(), two_groups);
      auto each = accelerator.prepare(stock);
      each.core()->update_with({.counters = Counters::kOnDevice});
      return each;
    };
    const auto ema_of = [&](EmaOptions options) {
      Ema ema(prepared, options);
      ema.core()->count_with(Counters::kOnDevice);
      return ema;
    };
    const auto one = optimizer_of(false), two = optimizer_of(true);
    Ema called = ema_of({}), followed = ema_of({}), of_groups = ema_of({}),
        with_buffers = ema_of({.use_buffers = true});
    EXPECT_EQ(calls_of(one, called, Follows::kByCall), (Calls{{update, 3}, {"accelerate::fused_ema_", 3}}));
    EXPECT_EQ(calls_of(one, followed, Follows::kByItself), (Calls{{update, 3}}));
    EXPECT_EQ(calls_of(two, of_groups, Follows::kByItself), (Calls{{update, 6}}));
    EXPECT_EQ(of_groups.optimization_step(), 3) << "once a step, not once a group";
    const auto third = optimizer_of(true);
    EXPECT_EQ(calls_of(third, with_buffers, Follows::kByItself),
              (Calls{{update, 6}, {"accelerate::follow_weights_", 3}}));
  }
}

/// Averages that were made of the rounded weights alone stay theirs, whatever the kernel updates.
TEST(EmaFollowingRounded, AnEmaThatDoesNotKnowTheMastersFollowsWhatIsRounded) {
  Accelerator low({.mixed_precision = "bf16_master", .cpu = true});
  Mlp net(1, torch::kFloat);
  auto [model, optimizer] = low.prepare(net, torch::optim::AdamW(net->parameters(), 0.01));
  Ema ema({model.core()->table()}, {.decay = 0.5}), called({model.core()->table()}, {.decay = 0.5}),
      of_masters(model, {.decay = 0.5});
  ema.follow(optimizer);
  for (uint64_t i = 0; i < 5; ++i) {
    const auto [x, y] = training::make_batch(5, i, torch::kFloat);
    low.backward(training::mse(model(x), y));
    const StepResult result = optimizer.step();
    called.update(result);
    of_masters.update(result);
    optimizer.zero_grad();
  }
  Written a, b, c;
  ema.save(a);
  called.save(b);
  of_masters.save(c);
  EXPECT_TRUE(equal(a.tensors, b.tensors));
  EXPECT_FALSE(equal(a.tensors, c.tensors));
}

/// After an error in the middle nobody knows what was counted: the host's count goes on.
TEST_F(EmaFollowing, AStepThatFailsIsNotCounted) {
  optimizer.core()->update_with({.counters = Counters::kOnDevice});
  Ema ema(model, {.decay = 0.5, .ramp_up = true});
  ema.core()->count_with(Counters::kOnDevice);
  ema.follow(optimizer);
  for (uint64_t i = 0; i < 3; ++i) step(i);
  const auto [x, y] = training::make_batch(5, 1);
  EXPECT_THROW(optimizer.step([&, &x = x, &y = y]() -> at::Tensor {
    accelerator.backward(training::mse(model(x), y));
    throw std::runtime_error("of the closure");
  }),
               std::runtime_error);
  optimizer.zero_grad();
  for (uint64_t i = 0; i < 2; ++i) step(i);
  EXPECT_EQ(ema.optimization_step(), 5);
  EXPECT_EQ(ema.cur_decay_value(), accelerate::internal::ema_decay({.decay = 0.5, .ramp_up = true}, 5));
}

TEST_F(EmaFollowing, FollowsAModelThatIsConvertedOrLiesOtherwise) {
  optimizer.core()->update_with({.counters = Counters::kOnDevice});
  auto plain = accelerator.prepare(torch::optim::SGD(net->parameters(), 0.1));
  Ema ema(model, {.decay = 0.5}), called(model, {.decay = 0.5});
  for (Ema* each : {&ema, &called}) each->core()->count_with(Counters::kOnDevice);
  ema.follow(plain);
  plain.core()->update_with({.counters = Counters::kOnDevice});
  const auto both = [&](at::ScalarType dtype) {
    const auto [x, y] = training::make_batch(5, 2, dtype);
    accelerator.backward(training::mse(model(x), y));
    called.update(plain.step());
    plain.zero_grad();
    EXPECT_TRUE(equal(averages_of(ema), averages_of(called)));
  };
  both(torch::kDouble);
  net->to(torch::kFloat);
  both(torch::kFloat);
  net->hidden->weight.set_data(net->hidden->weight.detach().t().contiguous().t());
  both(torch::kFloat);
  both(torch::kFloat);
  EXPECT_EQ(ema.optimization_step(), 4);
}

}  // namespace
