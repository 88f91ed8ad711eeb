// Averages of the weights in captured steps: what they keep and whether they follow is the device's to know.
#include "accelerate/optim/ema_core.h"
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using accelerate::Ema;
using accelerate::EmaOptions;
using accelerate::EmaUpdate;
using testing::IsEmpty;

/// Where `update` is called; by the optimizer after `follow`.
enum class Called { kInTheWindow, kAfterTheStep, kByTheOptimizer };

struct Case {
  EmaOptions options;
  const char* precision = "no";
  bool spoil = false;  ///< some losses are infinite
  Called called = Called::kInTheWindow;
  int steps = 40;
  int loads_before = -1;   ///< the step before which the state of the beginning is loaded
  bool lacks_one = false;  ///< a weight in the middle has no average
};

struct Written : accelerate::StateWriter, accelerate::StateReader {
  void write(const accelerate::ShardedTensor& tensor) override { tensors.push_back(tensor.local.detach().clone()); }
  void read(const accelerate::ShardedTensor& tensor) override {
    const torch::NoGradGuard no_grad;
    at::Tensor local = tensor.local;
    local.copy_(tensors[next++]);
  }
  std::vector<at::Tensor> tensors;
  size_t next = 0;
};

struct Trained {
  std::vector<at::Tensor> weights, averages;
  std::vector<double> decays;
  int64_t updates = 0;
  CudaGraphReport report;
};

Trained train(const Case& one, bool captured) {
  AcceleratorOptions options = capturing::options();
  options.mixed_precision = one.precision;
  options.scaler_handler = accelerate::GradScalerKwargs{.init_scale = 64};
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  torch::manual_seed(5);
  Net net;
  torch::optim::AdamW adamw(net->parameters(), 1e-2);
  auto [model, optimizer] = accelerator.prepare(net, adamw);
  use_captured_kernels(optimizer);
  accelerate::ParameterTable some = model.core()->table();
  some.erase(some.begin() + 2);
  Ema ema = one.lacks_one ? Ema({some}, one.options) : Ema(model, one.options);
  ema.core()->count_with(accelerate::internal::Counters::kOnDevice);
  Written begin;
  ema.save(begin);
  if (one.called == Called::kByTheOptimizer) ema.follow(optimizer);
  std::vector<EmaUpdate> updates;
  for (int i = 0; i < one.steps; ++i) {
    const auto x = randn({8, 12}), y = labels_of(8);
    if (one.spoil && i % 6 == 5) x.fill_(1e30);
    if (i == one.loads_before) ema.load(begin);
    const auto step = [&, &model = model, &optimizer = optimizer] {
      accelerator.backward(cross_entropy(model(x), y));
      // Without a scale the CPU reads whether a clip is needed.
      if (std::string_view(one.precision) == "fp16") accelerator.clip_grad_norm_(model, {.max_norm = 0.5});
      const auto result = optimizer.step();
      optimizer.zero_grad();
      if (one.called != Called::kByTheOptimizer) updates.push_back(ema.update(result));
    };
    if (one.called != Called::kAfterTheStep) {
      auto window = accelerator.accumulate(model);
      step();
    } else {
      step();
    }
  }
  Trained trained;
  trained.report = accelerator.cuda_graph_report();
  for (const EmaUpdate& update : updates) trained.decays.push_back(update.applied() ? update.decay() : -1);
  trained.updates = ema.optimization_step();
  for (const auto& parameter : net->parameters()) trained.weights.push_back(parameter.detach().clone());
  const auto averaged = ema.apply();
  for (const auto& parameter : net->parameters()) trained.averages.push_back(parameter.detach().clone());
  return trained;
}

Trained expect_same(const Case& one) {
  const Trained usual = train(one, false);
  Trained captured = train(one, true);
  EXPECT_EQ(usual.decays, captured.decays);
  EXPECT_EQ(usual.updates, captured.updates);
  for (size_t i = 0; i < usual.weights.size(); ++i) {
    EXPECT_TRUE(usual.weights[i].equal(captured.weights[i])) << "weight " << i;
    EXPECT_TRUE(usual.averages[i].equal(captured.averages[i]))
        << "average " << i << " differs by " << (usual.averages[i] - captured.averages[i]).abs().max();
    EXPECT_FALSE(usual.averages[i].equal(usual.weights[i])) << "average " << i << " follows at once";
  }
  return captured;
}

const std::pair<const char*, EmaOptions> kPhases[] = {
    {"constant", {.decay = 0.9}},
    {"warm-up", {.decay = 0.95, .use_ema_warmup = true}},
    {"ramp", {.decay = 0.95, .ramp_up = true}},
    {"late", {.decay = 0.9, .update_after_step = 12}},
    {"late warm-up", {.decay = 0.99, .min_decay = 0.2, .use_ema_warmup = true, .power = 0.75, .update_after_step = 15}},
};

using StepEma = StepCapture;

TEST_F(StepEma, EveryPhaseIsReplayed) {
  for (const auto& [name, options] : kPhases) {
    for (const char* precision : {"no", "bf16", "fp16", "bf16_master"}) {
      SCOPED_TRACE(std::string(name) + ", " + precision);
      const Trained trained = expect_same({.options = options, .precision = precision});
      expect_all_replayed(trained.report);
      EXPECT_GE(trained.report.replayed, 30);
      EXPECT_EQ(trained.updates, 40);
      for (int64_t i = 0; i < 40; ++i) {
        EXPECT_EQ(trained.decays[static_cast<size_t>(i)], accelerate::internal::ema_decay(options, i + 1)) << i;
      }
    }
  }
}

TEST_F(StepEma, SkippedStepsLeaveTheAveragesAlone) {
  for (const auto& [name, options] : kPhases) {
    SCOPED_TRACE(name);
    const Trained trained = expect_same({.options = options, .precision = "fp16", .spoil = true});
    expect_all_replayed(trained.report);
    EXPECT_EQ(trained.updates, 40 - 6);
    int64_t update = 0;
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(trained.decays[i], i % 6 == 5 ? -1 : accelerate::internal::ema_decay(options, ++update)) << i;
    }
  }
}

TEST_F(StepEma, AveragesMayFollowAfterTheStepHasEnded) {
  for (const bool spoil : {false, true}) {
    const Trained trained = expect_same({.options = {.decay = 0.95, .use_ema_warmup = true},
                                         .precision = "fp16",
                                         .spoil = spoil,
                                         .called = Called::kAfterTheStep});
    expect_all_replayed(trained.report);
    EXPECT_EQ(trained.updates, spoil ? 34 : 40);
  }
}

TEST_F(StepEma, AveragesThatFollowTheOptimizerAreReplayedWithIt) {
  for (const auto& [name, options] : kPhases) {
    for (const char* precision : {"no", "bf16", "fp16", "bf16_master", "bf16_stochastic"}) {
      for (const bool spoil : {false, true}) {
        SCOPED_TRACE(std::string(name) + ", " + precision + (spoil ? ", spoilt" : ""));
        if (spoil && std::string_view(precision) != "fp16") continue;
        Case one{.options = options, .precision = precision, .spoil = spoil, .called = Called::kByTheOptimizer};
        const Trained followed = expect_same(one);
        expect_all_replayed(followed.report);
        EXPECT_GE(followed.report.replayed, 30);
        EXPECT_EQ(followed.updates, spoil ? 34 : 40);
        one.called = Called::kInTheWindow;
        const Trained called = train(one, false);
        for (size_t i = 0; i < called.averages.size(); ++i) {
          EXPECT_TRUE(called.averages[i].equal(followed.averages[i])) << "average " << i;
          EXPECT_TRUE(called.weights[i].equal(followed.weights[i])) << "weight " << i;
        }
      }
    }
  }
}

TEST_F(StepEma, AWeightWithoutAnAverageStandsAmongThem) {
  Case one{.options = {.decay = 0.95, .use_ema_warmup = true}, .called = Called::kByTheOptimizer, .lacks_one = true};
  const Trained usual = train(one, false), captured = train(one, true);
  expect_all_replayed(captured.report);
  EXPECT_EQ(usual.updates, 40);
  size_t without = 0;
  for (size_t i = 0; i < usual.weights.size(); ++i) {
    EXPECT_TRUE(usual.weights[i].equal(captured.weights[i])) << "weight " << i;
    EXPECT_TRUE(usual.averages[i].equal(captured.averages[i])) << "average " << i;
    without += usual.averages[i].equal(usual.weights[i]) ? 1 : 0;
  }
  EXPECT_EQ(without, 1u);
}

TEST_F(StepEma, ALoadInBetweenIsFollowed) {
  const Trained by_itself = expect_same(
      {.options = {.decay = 0.95, .use_ema_warmup = true}, .called = Called::kByTheOptimizer, .loads_before = 20});
  EXPECT_EQ(by_itself.updates, 20);
  EXPECT_LE(by_itself.report.fallbacks, 1) << by_itself.report.last_fallback;
  const Trained trained = expect_same({.options = {.decay = 0.95, .use_ema_warmup = true}, .loads_before = 20});
  EXPECT_EQ(trained.updates, 20);
  EXPECT_EQ(trained.decays[20], 0) << "the first one copies";
  EXPECT_THAT(trained.report.not_captured, IsEmpty());
  EXPECT_LE(trained.report.fallbacks, 1) << trained.report.last_fallback;
}

}  // namespace
