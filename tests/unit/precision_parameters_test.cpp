// Precisions whose parameters are of bfloat16: what `prepare` does to a model, what calls do to their arguments, what
// optimizers do with masters or by chance.
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <map>

#include "accelerate/optim/lion.h"
#include "accelerate/optim/update.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::UsageError;
using testing::ElementsAre;
using training::expect_error;

constexpr auto kLow = torch::kBFloat16;

struct NetImpl : torch::nn::Module {
  NetImpl() {
    torch::manual_seed(3);
    first = register_module("first", torch::nn::Linear(6, 12));
    frozen = register_module("frozen", torch::nn::Linear(12, 12));
    norm = register_module("norm", torch::nn::BatchNorm1d(12));
    table = register_buffer("table", torch::linspace(0, 1, 12));
    counts = register_buffer("counts", torch::arange(12));
    tied = register_parameter("tied", first->weight);
    for (auto& parameter : frozen->parameters()) parameter.set_requires_grad(false);
  }
  at::Tensor forward(const at::Tensor& x) {
    seen = x.scalar_type();
    const auto h = norm(torch::relu(first(x)) + table);
    return torch::linear(frozen(h), tied.t());
  }
  torch::nn::Linear first{nullptr}, frozen{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  at::Tensor table, counts, tied;
  at::ScalarType seen = torch::kInt;
};
TORCH_MODULE(Net);

class LowParameters : public testing::TestWithParam<const char*> {
 protected:
  Accelerator accelerator{{.mixed_precision = GetParam()}};
  bool has_masters() const { return std::string(GetParam()) == "bf16_master"; }
};
INSTANTIATE_TEST_SUITE_P(Precisions, LowParameters, testing::Values("bf16_master", "bf16_stochastic"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(LowParameters, PrepareConvertsParametersAndBuffersButNoRunningStatistics) {
  Net net;
  const at::Tensor weight = net->first->weight;
  const at::Tensor before = weight.detach().clone();
  const void* const identity = weight.unsafeGetTensorImpl();
  net->first->weight.mutable_grad() = torch::ones_like(weight);
  accelerator.prepare(net);
  EXPECT_EQ(net->first->weight.unsafeGetTensorImpl(), identity);
  EXPECT_EQ(net->first->weight.scalar_type(), kLow);
  EXPECT_TRUE(torch::equal(net->first->weight, before.to(kLow)));
  EXPECT_EQ(net->first->weight.grad().scalar_type(), kLow);
  EXPECT_TRUE(net->first->weight.requires_grad());
  EXPECT_EQ(net->frozen->weight.scalar_type(), kLow);
  EXPECT_FALSE(net->frozen->weight.requires_grad());
  EXPECT_EQ(net->table.scalar_type(), kLow);
  EXPECT_EQ(net->counts.scalar_type(), torch::kLong);
  EXPECT_EQ(net->norm->weight.scalar_type(), torch::kFloat);
  EXPECT_EQ(net->norm->running_mean.scalar_type(), torch::kFloat);
  EXPECT_EQ(net->norm->running_var.scalar_type(), torch::kFloat);
  EXPECT_TRUE(net->tied.is_same(net->first->weight));
}

TEST_P(LowParameters, AStepTrainsWhatIsNotFrozen) {
  Net net;
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-2));
  const auto frozen = net->frozen->weight.detach().clone();
  const auto mean = net->norm->running_mean.clone();
  const auto x = torch::randn({16, 6});
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    const auto output = model(x);
    EXPECT_EQ(output.scalar_type(), torch::kFloat);
    EXPECT_EQ(net->seen, kLow);
    const auto loss = training::mse(output, x);
    (step == 0 ? first : last) = loss.item<double>();
    accelerator.backward(loss);
    accelerator.clip_grad_norm_(model, {.max_norm = 1.0});
    optimizer.step();
    optimizer.zero_grad();
  }
  EXPECT_LT(last, 0.5 * first);
  EXPECT_TRUE(torch::equal(net->frozen->weight, frozen));
  EXPECT_FALSE(torch::equal(net->norm->running_mean, mean));
  EXPECT_EQ(optimizer.core()->master_of(net->frozen->weight), nullptr) << "memory for nothing";
  const at::Tensor* master = optimizer.core()->master_of(net->first->weight);
  ASSERT_EQ(master != nullptr, has_masters());
  if (master != nullptr) {
    EXPECT_TRUE(torch::equal(master->to(kLow), net->first->weight));
  }
  const torch::optim::Optimizer& inner = optimizer.core()->inner();
  const auto& state =
      static_cast<const torch::optim::AdamWParamState&>(*inner.state().at(net->first->weight.unsafeGetTensorImpl()));
  EXPECT_EQ(state.exp_avg().scalar_type(), torch::kFloat);
  EXPECT_EQ(state.exp_avg_sq().scalar_type(), torch::kFloat);
}

struct Batch {
  at::Tensor x;
  std::vector<at::Tensor> more;
  int64_t length = 0;
};

/// Takes its arguments in every way.
struct TakerImpl : torch::nn::Module {
  TakerImpl() { weight = register_parameter("weight", torch::ones({2})); }
  at::Tensor forward(at::Tensor x) { return note(x); }
  at::Tensor constant(const Batch& batch) { return note(batch.x) + note(batch.more.at(0)); }
  at::Tensor changing(Batch& batch) {
    note(batch.x);
    ++batch.length;
    batch.more.push_back(batch.x);
    batch.more[0] = torch::full({2}, 7.0);
    return batch.x;
  }
  at::Tensor out(at::Tensor& x) {
    note(x);
    x = torch::full({2}, 5.0);
    return x;
  }
  at::Tensor taken(Batch&& batch) {
    const Batch own = std::move(batch);
    return note(own.x);
  }
  const at::Tensor& same(const at::Tensor& x) { return x; }
  std::vector<at::ScalarType> several(const std::map<std::string, at::Tensor>& all) {
    for (const auto& [key, tensor] : all) seen.push_back(tensor.defined() ? tensor.scalar_type() : torch::kUInt8);
    return {};
  }
  void nothing(const at::Tensor& x, double, const char*) { note(x); }
  at::Tensor fails(Batch&) { throw std::runtime_error("in forward"); }
  at::Tensor note(const at::Tensor& x) {
    seen.push_back(x.scalar_type());
    return x * weight;
  }
  at::Tensor weight;
  std::vector<at::ScalarType> seen;
};
TORCH_MODULE(Taker);

class Arguments : public LowParameters {
 protected:
  Taker net;
  accelerate::Model<TakerImpl> model = accelerator.prepare(net);
};
INSTANTIATE_TEST_SUITE_P(Precisions, Arguments, testing::Values("bf16_master", "bf16_stochastic"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Arguments, OfAnyKindAreConvertedAndTheCallersStay) {
  const at::Tensor constant = torch::ones({2});
  at::Tensor variable = torch::ones({2}, torch::kDouble);
  model(constant);
  model(variable);
  model(torch::ones({2}, torch::kHalf));
  EXPECT_THAT(net->seen, ElementsAre(kLow, kLow, kLow));
  EXPECT_EQ(constant.scalar_type(), torch::kFloat);
  EXPECT_EQ(variable.scalar_type(), torch::kDouble);
  net->seen.clear();

  const Batch batch{torch::ones({2}), {torch::ones({2})}};
  model.call(&TakerImpl::constant, batch);
  EXPECT_EQ(batch.x.scalar_type(), torch::kFloat);
  EXPECT_EQ(batch.more[0].scalar_type(), torch::kFloat);
  model.call(&TakerImpl::taken, Batch{torch::ones({2}), {}});
  model.call(&TakerImpl::nothing, constant, 0.5, "text");
  EXPECT_THAT(net->seen, ElementsAre(kLow, kLow, kLow, kLow));
}

TEST_P(Arguments, WhatTheCallWritesIntoThemIsTheCallers) {
  Batch batch{torch::ones({2}), {torch::ones({2})}};
  const at::Tensor own = batch.x;
  model.call(&TakerImpl::changing, batch);
  EXPECT_TRUE(batch.x.is_same(own));
  EXPECT_EQ(batch.length, 1);
  ASSERT_EQ(batch.more.size(), 2U);
  EXPECT_TRUE(batch.more[1].is_same(own)) << "it is the argument";
  EXPECT_TRUE(torch::equal(batch.more[0], torch::full({2}, 7.0)));
  EXPECT_THROW(model.call(&TakerImpl::fails, batch), std::runtime_error);
  EXPECT_TRUE(batch.x.is_same(own));

  at::Tensor x = torch::ones({2});
  model.call(&TakerImpl::out, x);
  EXPECT_TRUE(torch::equal(x, torch::full({2}, 5.0)));
}

TEST_P(Arguments, OnlyFloatingOnesAreConverted) {
  model.call(&TakerImpl::several, std::map<std::string, at::Tensor>{{"a", torch::ones({2}, torch::kLong)},
                                                                    {"b", torch::ones({2}, torch::kBool)},
                                                                    {"c", at::Tensor()},
                                                                    {"d", torch::ones({2}, torch::kComplexFloat)},
                                                                    {"e", torch::ones({2})}});
  EXPECT_THAT(net->seen, ElementsAre(torch::kLong, torch::kBool, torch::kUInt8, torch::kComplexFloat, kLow));
}

TEST_P(Arguments, AGradientComesBackInTheCallersDtype) {
  const at::Tensor x = torch::ones({2}).requires_grad_();
  accelerator.backward(model(x).sum());
  EXPECT_EQ(x.grad().scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::equal(x.grad(), torch::ones({2})));
  EXPECT_EQ(model.call(&TakerImpl::same, x).scalar_type(), torch::kFloat) << "outputs as the precision says";
}

TEST_P(LowParameters, AutocastAroundACallStaysOutsideAndMakesOperandsFitThere) {
  torch::nn::Linear net(4, 4);
  auto model = accelerator.prepare(net);
  auto guard = accelerator.autocast();
  EXPECT_EQ(torch::linear(torch::ones({2, 4}), net->weight).scalar_type(), kLow);
  bool inside = true;
  model.call([&](torch::nn::LinearImpl&, const at::Tensor&) { inside = at::autocast::is_autocast_enabled(at::kCPU); },
             torch::ones({2, 4}));
  EXPECT_FALSE(inside);
}

/// Any optimizer: a few steps small beside the weights add up.
using MakeOptimizer = std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<at::Tensor>)>;
struct Kind {
  std::string name;
  MakeOptimizer make;
};
/// A user's own, which the library knows nothing of.
struct Descent : torch::optim::SGD {
  using SGD::SGD;
};
std::vector<Kind> kinds() {
  using namespace torch::optim;  // NOLINT
  return {
      {"adamw", [](auto p) { return std::make_unique<AdamW>(p, AdamWOptions(3e-5).weight_decay(0)); }},
      {"amsgrad", [](auto p) { return std::make_unique<Adam>(p, AdamOptions(3e-5).amsgrad(true)); }},
      {"sgd", [](auto p) { return std::make_unique<SGD>(p, SGDOptions(3e-5)); }},
      {"momentum", [](auto p) { return std::make_unique<SGD>(p, SGDOptions(3e-6).momentum(0.9)); }},
      {"lion", [](auto p) { return std::make_unique<accelerate::Lion>(p, accelerate::LionOptions(3e-5)); }},
      {"adagrad", [](auto p) { return std::make_unique<Adagrad>(p, AdagradOptions(1.2e-3)); }},
      {"rmsprop", [](auto p) { return std::make_unique<RMSprop>(p, RMSpropOptions(3e-5)); }},
      {"own", [](auto p) { return std::make_unique<Descent>(p, SGDOptions(3e-5)); }},
  };
}

class EveryOptimizer : public testing::TestWithParam<std::tuple<const char*, Kind>> {};
INSTANTIATE_TEST_SUITE_P(Kinds, EveryOptimizer,
                         testing::Combine(testing::Values("bf16_master", "bf16_stochastic"),
                                          testing::ValuesIn(kinds())),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });

struct WeightImpl : torch::nn::Module {
  WeightImpl() { weight = register_parameter("weight", torch::ones({64, 64})); }
  at::Tensor forward() { return weight.sum(); }
  at::Tensor weight;
};
TORCH_MODULE(Weight);

// 400 steps of 3e-5, each a hundredth of what bfloat16 has beside 1.
TEST_P(EveryOptimizer, SmallStepsAddUp) {
  const auto& [precision, kind] = GetParam();
  Accelerator accelerator({.mixed_precision = precision});
  torch::manual_seed(5);
  Weight twin, net;
  auto reference = kind.make(twin->parameters());
  auto [model, optimizer] =
      accelerator.prepare(net, std::shared_ptr<torch::optim::Optimizer>(kind.make(net->parameters())));
  for (int step = 0; step < 400; ++step) {
    accelerator.backward(model());
    twin->weight.mutable_grad() = torch::ones({64, 64});
    if (step % 50 == 9) {  // a gradient is missing
      net->weight.mutable_grad() = twin->weight.mutable_grad() = at::Tensor();
    }
    optimizer.step();
    reference->step();
    if (net->weight.grad().defined()) {
      ASSERT_EQ(net->weight.grad().scalar_type(), kLow);
    }
    optimizer.zero_grad();
    ASSERT_EQ(net->weight.scalar_type(), kLow);
    ASSERT_FALSE(net->weight.grad().defined());
  }
  const double expected = twin->weight.mean().item<double>();
  EXPECT_LT(expected, 0.99);
  const bool has_masters = precision == std::string("bf16_master");
  // All 4096 elements are rounded to the same nearest number, or each to one of its neighbours, 2^-8 apart, by chance:
  // their mean has a deviation below 2^-8 / 64.
  EXPECT_NEAR(net->weight.to(torch::kFloat).mean().item<double>(), expected,
              has_masters ? 1.0 / 512 : 5.0 / 256 / 64 + 1e-6);
  if (has_masters) {
    const at::Tensor* master = optimizer.core()->master_of(net->weight);
    ASSERT_NE(master, nullptr);
    EXPECT_LT((*master - twin->weight).abs().max().item<double>(), 2e-6);
    EXPECT_TRUE(torch::equal(master->to(kLow), net->weight));
  }
}

TEST_P(LowParameters, StateFromBeforeStaysValid) {
  Net net;
  torch::optim::AdamW adamw(net->parameters(), torch::optim::AdamWOptions(1e-2));
  training::mse(net(torch::randn({8, 6})), torch::zeros({8, 6})).backward();
  adamw.step();
  adamw.zero_grad();
  auto& state =
      static_cast<torch::optim::AdamWParamState&>(*adamw.state().at(net->first->weight.unsafeGetTensorImpl()));
  const at::Tensor average = state.exp_avg().clone();
  const int64_t steps = state.step();
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  EXPECT_TRUE(torch::equal(state.exp_avg(), average));
  accelerator.backward(training::mse(model(torch::randn({8, 6})), torch::zeros({8, 6})));
  optimizer.step();
  EXPECT_EQ(state.step(), steps + 1);
  EXPECT_EQ(state.exp_avg().scalar_type(), torch::kFloat);
  EXPECT_FALSE(torch::equal(state.exp_avg(), average));
}

TEST_P(LowParameters, StateOf16BitsBecomesFloat) {
  Net net;
  for (at::Tensor& parameter : net->first->parameters()) parameter.set_data(parameter.detach().to(kLow));
  torch::optim::SGD sgd(net->first->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (at::Tensor& parameter : net->first->parameters()) parameter.mutable_grad() = torch::ones_like(parameter);
  sgd.step();
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  accelerator.backward(model(torch::randn({8, 6})).pow(2).mean());
  optimizer.step();
  const auto& state =
      static_cast<torch::optim::SGDParamState&>(*sgd.state().at(net->first->weight.unsafeGetTensorImpl()));
  EXPECT_EQ(state.momentum_buffer().scalar_type(), torch::kFloat);
}

TEST_P(LowParameters, ModelsAreSavedAndLoadedInTheTrainedDtype) {
  const auto folder = std::filesystem::temp_directory_path() / ("low-parameters-" + std::string(GetParam()));
  Net net;
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-4));
  const auto step = [&, &model = model, &optimizer = optimizer] {
    accelerator.backward(model(torch::randn({8, 6})).pow(2).mean());
    optimizer.step();
    optimizer.zero_grad();
  };
  step();
  accelerator.save_model(model, folder.string());
  const auto weight = net->first->weight.detach().clone();
  const at::Tensor* master = optimizer.core()->master_of(net->first->weight);
  const at::Tensor digits = master == nullptr ? at::Tensor() : master->clone();
  accelerator.load_model(model, folder.string());
  EXPECT_TRUE(torch::equal(net->first->weight, weight));
  {
    const torch::NoGradGuard no_grad;
    net->first->bias.fill_(3);
  }
  optimizer.core()->inner().zero_grad();
  // The same weights, rate 0: masters keep what 16 bits did not have, and follow what was written.
  for (auto& group : optimizer.param_groups()) group.options().set_lr(0);
  step();
  EXPECT_TRUE(torch::equal(net->first->weight, weight));
  EXPECT_TRUE(torch::equal(net->first->bias, torch::full_like(net->first->bias, 3)));
  if (has_masters()) {
    EXPECT_TRUE(torch::equal(*optimizer.core()->master_of(net->first->weight), digits));
    EXPECT_FALSE(torch::equal(digits, digits.to(kLow).to(torch::kFloat)));
    EXPECT_TRUE(torch::equal(*optimizer.core()->master_of(net->first->bias), torch::full({12}, 3.0)));
  }
  Net other;
  Accelerator plain;
  auto same = plain.prepare(other);
  plain.load_model(same, folder.string());
  EXPECT_TRUE(torch::equal(other->frozen->weight, net->frozen->weight.to(torch::kFloat)));
  std::filesystem::remove_all(folder);
}

TEST(Masters, BeginWithWhatTheModelHadBeforeItWasRounded) {
  Accelerator accelerator({.mixed_precision = "bf16_master"});
  torch::nn::Linear net(8, 8);
  const at::Tensor before = net->weight.detach().clone();
  const void* const memory = net->weight.data_ptr();
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.0));
  accelerator.backward(model(torch::randn({2, 8})).sum());
  optimizer.step();
  EXPECT_TRUE(torch::equal(*optimizer.core()->master_of(net->weight), before));
  EXPECT_EQ(optimizer.core()->master_of(net->weight)->data_ptr(), memory) << "the same memory, not a copy";
}

class Collector final : public accelerate::StateWriter {
 public:
  void write(const accelerate::ShardedTensor& tensor) override { tensors[tensor.name] = tensor.local.clone(); }
  std::map<std::string, at::Tensor> tensors;
};

TEST(Masters, AveragesFollowThemAndDoNotTouchTheirDigits) {
  Accelerator accelerator({.mixed_precision = "bf16_master"});
  Weight net;
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 1e-4));
  accelerate::Ema ema(model, {.decay = 0.5});
  double average = 0;
  for (int step = 0; step < 6; ++step) {
    accelerator.backward(model());
    ema.update(optimizer.step());
    const double weight = 1 - 1e-4 * (step + 1);
    average = step == 0 ? weight : 0.5 * (average + weight);
    Collector saved;
    ema.save(saved);
    EXPECT_NEAR(saved.tensors.at("module.weight").mean().item<double>(), average, 1e-6) << step;
    optimizer.zero_grad();
    const at::Tensor before = optimizer.core()->master_of(net->weight)->clone();
    {
      auto weights = ema.apply();
      EXPECT_EQ(net->weight.scalar_type(), kLow);
    }
    accelerator.backward(model());
    optimizer.core()->inner().zero_grad();
    EXPECT_TRUE(torch::equal(*optimizer.core()->master_of(net->weight), before));
  }
  EXPECT_NEAR(optimizer.core()->master_of(net->weight)->mean().item<double>(), 1 - 6e-4, 1e-6);
  // The weights, in 8 bits, are still 1.
  EXPECT_TRUE(torch::equal(net->weight, torch::ones({64, 64}, kLow)));
}

TEST(StochasticRounding, ARunIsReproduced) {
  const auto run = [](uint64_t seed, int threads) {
    torch::set_num_threads(threads);
    torch::manual_seed(seed);
    Accelerator accelerator({.mixed_precision = "bf16_stochastic"});
    torch::nn::Linear net(300, 301);
    torch::nn::init::constant_(net->weight, 0.5);
    auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-4));
    for (int step = 0; step < 5; ++step) {
      accelerator.backward(model(torch::ones({2, 300})).sum());
      optimizer.step();
      optimizer.zero_grad();
    }
    return net->weight.detach().clone();
  };
  const int before = torch::get_num_threads();
  const auto once = run(7, 1), again = run(7, 2), other = run(8, 1);
  torch::set_num_threads(before);
  EXPECT_TRUE(torch::equal(once, again));
  EXPECT_FALSE(torch::equal(once, other));
}

TEST_P(LowParameters, LbfgsIsRefusedBeforeAnythingChanges) {
  torch::nn::Linear net(2, 2);
  torch::optim::LBFGS lbfgs(net->parameters(), 1.0);
  expect_error<UsageError>(
      [&] { accelerator.prepare(net, lbfgs); },
      {"prepare", std::string("torch::optim::LBFGS with .mixed_precision = \"") + GetParam() + "\"", "one gradient",
       "float32"});
  EXPECT_EQ(net->weight.scalar_type(), torch::kFloat);
}

TEST(PrecisionPolicies, ContradictionsAreRefused) {
  using accelerate::PrecisionPolicy;
  const auto use = [](const PrecisionPolicy& policy) {
    accelerate::AcceleratorOptions options{.mixed_precision = "mine"};
    options.extensions.precisions.push_back(
        {"mine", [](c10::Device) -> std::optional<std::string> { return std::nullopt; }, policy});
    const Accelerator accelerator(options);
  };
  expect_error<ConfigError>([&] { use({.compute = kLow, .param = kLow}); },
                            {"mixed_precision", "\"mine\"", "go together", "extensions"});
  expect_error<ConfigError>([&] { use({.param = kLow, .master_weights = true, .stochastic_rounding = true}); },
                            {"mixed_precision", "\"mine\"", "go together", "extensions"});
  expect_error<ConfigError>([&] { use({.param = torch::kHalf, .stochastic_rounding = true}); },
                            {"mixed_precision", "\"mine\"", "go together", "extensions"});
  expect_error<ConfigError>([&] { use({.master_weights = true}); },
                            {"mixed_precision", "\"mine\"", "go together", "extensions"});
  use({.output = torch::kFloat, .param = torch::kHalf, .master_weights = true});
}

TEST(PrecisionPolicies, WithoutMastersAndChanceParametersAreJustOf16Bits) {
  accelerate::AcceleratorOptions options{.mixed_precision = "mine"};
  options.extensions.precisions.push_back({"mine",
                                           [](c10::Device) -> std::optional<std::string> { return std::nullopt; },
                                           {.output = torch::kFloat, .param = kLow}});
  Accelerator accelerator(options);
  torch::nn::Linear net(6, 6);
  const at::Tensor table = net->register_buffer("table", torch::ones({3}));
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 1e-2));
  accelerator.backward(model(torch::randn({8, 6})).pow(2).mean());
  optimizer.step();
  EXPECT_EQ(optimizer.core()->master_of(net->weight), nullptr);
  EXPECT_EQ(net->weight.scalar_type(), kLow);
  EXPECT_EQ(table.scalar_type(), torch::kFloat) << "a policy without a dtype for buffers";
}

}  // namespace
