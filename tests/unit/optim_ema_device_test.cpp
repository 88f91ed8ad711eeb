// Averages whose updates the device counts and decides: nobody waits who does not ask, and they are those of the host.
#include <rapidcheck/gtest.h>

#include <deque>
#include <map>

#include "accelerate/optim/ema_core.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::Ema;
using accelerate::EmaOptions;
using accelerate::EmaUpdate;
using accelerate::StepResult;
using accelerate::internal::Counters;
using training::copy_of;
using training::equal;
using training::Mlp;
using training::MlpImpl;

const StepResult kApplied(StepResult::Outcome::kApplied);

/// An update that its device has decided about, and nobody else knows yet.
class Decided final : public accelerate::internal::PendingOutcome {
 public:
  explicit Decided(bool skips) : skips_(skips), verdict_(torch::full({1}, skips ? 1.0F : 0.0F)) {}
  bool known() override { return known_; }
  bool skipped() override {
    ++waits_;
    known_ = true;
    return skips_;
  }
  at::Tensor verdict() const override { return verdict_; }
  void forget_verdict() { verdict_.reset(); }
  int waits() const { return waits_; }
  void tell() { known_ = true; }

 private:
  bool skips_, known_ = false;
  int waits_ = 0;
  at::Tensor verdict_;
};

void become(torch::nn::Module& net, double value) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : net.parameters()) parameter.fill_(value);
}
void become_noise(torch::nn::Module& net) {
  const torch::NoGradGuard no_grad;
  for (auto& parameter : net.parameters()) parameter.normal_();
}

std::vector<at::Tensor> averages_of(Ema& ema, const torch::nn::Module& net) {
  const auto weights = ema.apply();
  return copy_of(net.parameters());
}

struct Written : accelerate::StateWriter, accelerate::StateReader {
  void write(const accelerate::ShardedTensor& tensor) override { tensors[tensor.name] = tensor.local.detach().clone(); }
  /// Values are there once the whole load has finished.
  void read(const accelerate::ShardedTensor& tensor) override { asked.push_back(tensor); }
  void finish() {
    const torch::NoGradGuard no_grad;
    for (auto& one : asked) one.local.copy_(tensors.at(one.name));
    asked.clear();
  }
  std::map<std::string, at::Tensor> tensors;
  std::vector<accelerate::ShardedTensor> asked;
};

class EmaOnDevice : public testing::Test {
 protected:
  Ema on_device(EmaOptions options = {}) {
    Ema ema(model, options);
    ema.core()->count_with(Counters::kOnDevice);
    return ema;
  }
  Accelerator accelerator{{.cpu = true}};
  Mlp net{3};
  accelerate::Model<MlpImpl> model = accelerator.prepare(net);
};

TEST_F(EmaOnDevice, FollowsWithoutWaitingAndTellsLater) {
  Ema ema = on_device({.decay = 0.75});
  const auto before = averages_of(ema, *net);
  std::vector<std::shared_ptr<Decided>> steps;
  std::vector<EmaUpdate> updates;
  double expected = 0;
  int64_t applied = 0;
  for (int step = 0; step < 8; ++step) {
    become(*net, step);
    steps.push_back(std::make_shared<Decided>(step % 3 == 0));
    updates.push_back(ema.update(StepResult(steps.back())));
    if (step % 3 != 0) expected = applied++ == 0 ? step : 0.75 * expected + 0.25 * step;
    const auto averages = averages_of(ema, *net);
    if (applied == 0) {
      EXPECT_TRUE(equal(averages, before));
    } else {
      EXPECT_NEAR(averages[0].max().item<double>(), expected, 1e-12) << step;
    }
    EXPECT_FALSE(updates.back().known());
  }
  for (const auto& step : steps) EXPECT_EQ(step->waits(), 0);
  EXPECT_EQ(updates[4].decay(), 0.75) << "updates 1 and 2 were before";
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i]->waits(), 1) << "one after the other " << i;
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_TRUE(updates[i].known());
    EXPECT_EQ(updates[i].applied(), i % 3 != 0);
    EXPECT_EQ(updates[i].decay(), i % 3 == 0 || i == 1 ? 0 : 0.75);
  }
  EXPECT_EQ(ema.optimization_step(), 5);
}

TEST_F(EmaOnDevice, AHandleOutlivesTheAverages) {
  auto ema = std::make_unique<Ema>(on_device({.decay = 0.5}));
  const auto first = std::make_shared<Decided>(true), second = std::make_shared<Decided>(false);
  const EmaUpdate skipped = ema->update(StepResult(first)), applied = ema->update(StepResult(second));
  ema.reset();
  EXPECT_TRUE(applied.applied());
  EXPECT_FALSE(skipped.applied());
  EXPECT_FALSE(EmaUpdate().applied());
  EXPECT_TRUE(EmaUpdate().known());
  EXPECT_EQ(EmaUpdate().decay(), 0);
}

TEST_F(EmaOnDevice, WaitsWhereTheVerdictIsTheHostsAlone) {
  for (const auto counters : {Counters::kOnDevice, Counters::kWithParameters}) {
    Ema ema(model, {.decay = 0.5});
    ema.core()->count_with(counters);
    for (const bool skips : {true, false}) {
      const auto step = std::make_shared<Decided>(skips);
      if (counters == Counters::kOnDevice) step->forget_verdict();
      EXPECT_EQ(ema.update(StepResult(step)).applied(), !skips);
      EXPECT_GE(step->waits(), 1);
    }
    EXPECT_EQ(ema.optimization_step(), 1);
  }
}

// Random options, skipped steps, known sooner or later, evaluations, saves and loads: the host's averages bit for bit.
RC_GTEST_PROP(EmaOnDeviceTraces, AreThoseOfTheHost, ()) {
  EmaOptions options;
  options.decay = *rc::gen::inRange(0, 1001) / 1000.0;
  options.min_decay = options.decay * *rc::gen::inRange(0, 3) / 4.0;
  options.use_ema_warmup = *rc::gen::arbitrary<bool>();
  options.ramp_up = !options.use_ema_warmup && *rc::gen::arbitrary<bool>();
  options.update_after_step = *rc::gen::inRange(0, 4);
  Accelerator accelerator({.cpu = true});
  Mlp net(1, *rc::gen::element(torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf));
  auto model = accelerator.prepare(net);
  Ema ours(model, options), host(model, options);
  ours.core()->count_with(Counters::kOnDevice);
  torch::manual_seed(*rc::gen::arbitrary<uint32_t>());
  std::deque<std::pair<std::shared_ptr<Decided>, EmaUpdate>> open;
  std::deque<double> expected;
  const auto look = [&] {
    RC_ASSERT(open.front().second.decay() == expected.front());
    open.pop_front();
    expected.pop_front();
  };
  for (const int action : *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 9))) {
    if (action < 5) {
      become_noise(*net);
      const bool skips = action == 0;
      const auto step = std::make_shared<Decided>(skips);
      const EmaUpdate update = ours.update(StepResult(step));
      RC_ASSERT(step->waits() == 0);
      open.emplace_back(step, update);
      expected.push_back(skips ? 0 : host.update(kApplied).decay());
      RC_ASSERT(update.known() == false);
    } else if (action == 5 && !open.empty()) {
      open.front().first->tell();
    } else if (action == 6 && !open.empty()) {
      look();
    } else if (action == 7) {
      RC_ASSERT(equal(averages_of(ours, *net), averages_of(host, *net)));
    } else if (action == 8) {
      Written state;
      host.save(state);
      ours.load(state);
      state.finish();
    }
  }
  RC_ASSERT(equal(averages_of(ours, *net), averages_of(host, *net)));
  RC_ASSERT(ours.cur_decay_value() == host.cur_decay_value());
  RC_ASSERT(ours.optimization_step() == host.optimization_step());
  while (!open.empty()) look();
}

TEST_F(EmaOnDevice, GoesOnWhereTheLoadedOneWas) {
  const EmaOptions options{.decay = 0.99, .use_ema_warmup = true, .update_after_step = 2};
  Ema first = on_device(options), second = on_device(options), late = on_device(options);
  for (int i = 0; i < 6; ++i) {
    become_noise(*net);
    first.update(kApplied);
    if (i < 2) second.update(kApplied);
  }
  Written state;
  first.save(state);
  EXPECT_EQ(state.tensors.at("n_averaged").item<int64_t>(), 6);
  EXPECT_TRUE(state.tensors.at("n_averaged").device().is_cpu());
  for (Ema* ema : {&second, &late}) {
    ema->load(state);
    state.finish();
    EXPECT_EQ(ema->optimization_step(), 6);
    EXPECT_EQ(ema->cur_decay_value(), first.cur_decay_value());
  }
  become_noise(*net);
  for (Ema* ema : {&first, &second, &late}) EXPECT_EQ(ema->update(kApplied).decay(), first.cur_decay_value());
  EXPECT_TRUE(equal(averages_of(first, *net), averages_of(second, *net)));
  EXPECT_TRUE(equal(averages_of(first, *net), averages_of(late, *net)));
}

TEST_F(EmaOnDevice, ALoadThatDoesNotFinishChangesNothing) {
  Ema ema = on_device({.decay = 0.5, .ramp_up = true});
  for (int i = 0; i < 4; ++i) ema.update(kApplied);
  Written state;
  ema.load(state);  // and nothing is filled
  EXPECT_EQ(ema.optimization_step(), 4);
  EXPECT_EQ(ema.update(kApplied).decay(), accelerate::internal::ema_decay({.decay = 0.5, .ramp_up = true}, 5));
}

TEST_F(EmaOnDevice, FollowsAModelThatIsConvertedOrLiesOtherwise) {
  Ema ema = on_device({.decay = 0.5}), host(model, {.decay = 0.5});
  const auto both = [&] {
    become_noise(*net);
    ema.update(kApplied);
    host.update(kApplied);
    EXPECT_TRUE(equal(averages_of(ema, *net), averages_of(host, *net)));
  };
  both();
  net->to(torch::kFloat);
  both();
  net->hidden->weight.set_data(torch::zeros({net->hidden->weight.size(1), net->hidden->weight.size(0)}).t());
  both();
  both();
}

struct OddImpl : torch::nn::Module {
  OddImpl() {
    low = register_parameter("low", torch::zeros({2, 3}, torch::kBFloat16));
    half = register_parameter("half", torch::zeros({5}, torch::kHalf));
    full = register_parameter("full", torch::zeros({7}));
    wide = register_parameter("wide", torch::zeros({1}, torch::kDouble));
    waves = register_parameter("waves", torch::zeros({3}, torch::kComplexFloat));
    none = register_parameter("none", torch::zeros({0}));
    register_parameter("eight", torch::zeros({4}, torch::kFloat8_e4m3fn), /*requires_grad=*/false);
    register_parameter("table", torch::zeros({2}, torch::kLong), /*requires_grad=*/false);
    norm = register_module("norm", torch::nn::BatchNorm1d(2));
  }
  at::Tensor forward(const at::Tensor& x) { return x * full.sum(); }
  at::Tensor low, half, full, wide, waves, none;
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(Odd);

TEST_F(EmaOnDevice, HasEveryKindOfWeightAndSeveralModels) {
  Odd odd;
  auto second = accelerator.prepare(odd);
  const EmaOptions options{.decay = 0.7, .use_buffers = true};
  Ema ours(std::tie(model, second), options), host(std::tie(model, second), options);
  ours.core()->count_with(Counters::kOnDevice);
  for (int i = 0; i < 4; ++i) {
    {
      const torch::NoGradGuard no_grad;
      become_noise(*net);
      for (auto& parameter : odd->parameters()) {
        if (parameter.scalar_type() != torch::kLong) {
          parameter.copy_(
              torch::randn(parameter.sizes(), parameter.is_complex() ? torch::kComplexFloat : torch::kFloat));
        }
      }
      odd->norm->running_mean.normal_();
    }
    ours.update(kApplied);
    host.update(kApplied);
  }
  Written a, b;
  ours.save(a);
  host.save(b);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  EXPECT_TRUE(a.tensors.contains("module.1.eight"));
  EXPECT_TRUE(a.tensors.contains("module.1.norm.running_mean"));
  for (const auto& [name, tensor] : a.tensors) {
    EXPECT_EQ(tensor.dtype(), b.tensors.at(name).dtype()) << name;
    EXPECT_TRUE(tensor.is_complex() ? torch::allclose(tensor, b.tensors.at(name), 1e-6, 1e-7)
                                    : torch::equal(tensor, b.tensors.at(name)))
        << name << tensor << b.tensors.at(name);
  }
}

/// fp16 on a CPU whose parameters have their counters where they are.
TEST(EmaOfScaledTraining, FollowsTheStepsThatWereNotSkipped) {
  Accelerator accelerator({.mixed_precision = "fp16",
                           .cpu = true,
                           .autocast_handler = accelerate::AutocastKwargs{.enabled = false},
                           .scaler_handler = accelerate::GradScalerKwargs{.init_scale = 256}});
  Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::AdamW(net->parameters(), 0.1));
  optimizer.core()->update_with({.counters = Counters::kOnDevice});
  Ema ema(model, {.decay = 0.5}), by_host(model, {.decay = 0.5}), late(model, {.decay = 0.5});
  ema.core()->count_with(Counters::kOnDevice);
  late.core()->count_with(Counters::kOnDevice);
  at::Tensor verdict;
  std::optional<StepResult> before;
  for (int step = 0; step < 12; ++step) {
    const auto [x, y] = training::make_batch(5, static_cast<uint64_t>(step));
    accelerator.backward(training::mse(model(x), y));
    if (step % 4 == 1) net->out->bias.mutable_grad()[1] = std::numeric_limits<double>::infinity();
    accelerator.clip_grad_norm_(model, 0.5);
    const StepResult result = optimizer.step();
    optimizer.zero_grad();
    ASSERT_TRUE(result.verdict().defined());
    if (verdict.defined()) {
      EXPECT_TRUE(verdict.is_same(result.verdict()));
    }
    verdict = result.verdict();
    EXPECT_EQ(verdict.item<float>(), step % 4 == 1 ? 1 : 0);
    EXPECT_EQ(ema.update(result).applied(), step % 4 != 1);
    by_host.update(StepResult(step % 4 == 1 ? StepResult::Outcome::kSkipped : StepResult::Outcome::kApplied));
    if (before) {
      EXPECT_FALSE(before->verdict().defined()) << "the tensor is the next update's";
      EXPECT_EQ(late.update(*before).applied(), step % 4 != 2);
    }
    before = result;
  }
  EXPECT_EQ(ema.optimization_step(), 9);
  EXPECT_EQ(late.optimization_step(), 8);
  EXPECT_TRUE(equal(averages_of(ema, *net), averages_of(by_host, *net)));
}

}  // namespace
