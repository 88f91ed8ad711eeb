// Captured steps with what changes from step to step: rates, counts of updates, the scale of the loss.
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

AcceleratorOptions silent(const char* precision, bool captured, accelerate::GradScalerKwargs scaler) {
  AcceleratorOptions options = capturing::options();
  options.mixed_precision = precision;
  options.scaler_handler = scaler;
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (captured) options.cuda_graph = CudaGraph{};
  return options;
}

/// AdamW with a warm-up, the rate another one in every step, clipping; `spoil` makes some losses infinite.
std::pair<std::vector<at::Tensor>, CudaGraphReport> with_schedule(bool captured, const char* precision, bool spoil) {
  AcceleratorOptions options = silent(precision, captured, {.init_scale = 1024, .growth_interval = 5});
  options.gradient_accumulation_steps = 2;
  Accelerator accelerator(options);
  torch::manual_seed(5);
  Net net(0.1);
  torch::optim::AdamW adamw(net->parameters(), 1e-2);
  auto [model, optimizer, scheduler] =
      accelerator.prepare(net, adamw, accelerate::cosine({.warmup_steps = 5, .total_steps = 40}));
  use_captured_kernels(optimizer);
  std::vector<at::Tensor> result;
  for (int i = 0; i < 60; ++i) {
    const auto x = randn({8, 12}), y = labels_of(8);
    if (spoil && i % 13 == 12) x.fill_(1e30);
    auto window = accelerator.accumulate(model);
    auto loss = cross_entropy(model(x), y);
    accelerator.backward(loss);
    accelerator.clip_grad_norm_(model, {.max_norm = 0.5});
    optimizer.step();
    scheduler.step();
    optimizer.zero_grad();
    result.push_back(loss.detach());
  }
  for (const double rate : scheduler.get_last_lr()) result.push_back(torch::tensor(rate, torch::kDouble));
  for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
  const auto report = accelerator.cuda_graph_report();
  return {result, report};
}

TEST_F(StepCapture, AScheduleChangesTheRateOfTheCapturedStep) {
  for (const char* precision : {"no", "bf16", "fp16"}) {
    for (const bool spoil : {false, true}) {
      if (spoil && std::string_view(precision) != "fp16") continue;
      SCOPED_TRACE(std::string(precision) + (spoil ? ", some losses are infinite" : ""));
      const auto [usual, none] = with_schedule(false, precision, spoil);
      const auto [captured, report] = with_schedule(true, precision, spoil);
      ASSERT_EQ(usual.size(), captured.size());
      for (size_t i = 0; i < usual.size(); ++i) {
        EXPECT_TRUE(usual[i].allclose(captured[i], 0, 0, /*equal_nan=*/true)) << i << usual[i] << captured[i];
      }
      EXPECT_THAT(report.not_captured, IsEmpty());
      EXPECT_GT(report.replayed, 40) << report.last_fallback;
    }
  }
}

/// Asks for the outcome of an update at once, one step later, or never.
enum class Asked { kAtOnce, kLater, kNever };

TEST_F(StepCapture, AnOutcomeMayBeAskedForLateOrNever) {
  const auto run = [](bool captured, Asked asked) {
    Accelerator accelerator(silent("fp16", captured, {.init_scale = 64}));
    torch::manual_seed(5);
    Net net;
    torch::optim::AdamW adamw(net->parameters(), 1e-2);
    auto [model, optimizer] = accelerator.prepare(net, adamw);
    use_captured_kernels(optimizer);
    std::vector<bool> skipped;
    std::optional<accelerate::StepResult> last;
    for (int i = 0; i < 24; ++i) {
      const auto x = randn({8, 12}), y = labels_of(8);
      if (i % 7 == 6) x.fill_(1e30);
      auto window = accelerator.accumulate(model);
      accelerator.backward(cross_entropy(model(x), y));
      if (last && asked == Asked::kLater) skipped.push_back(last->skipped());
      last = optimizer.step();
      if (asked == Asked::kAtOnce) skipped.push_back(last->skipped());
      optimizer.zero_grad();
    }
    if (asked != Asked::kAtOnce) skipped.push_back(last->skipped());
    std::vector<at::Tensor> parameters;
    for (const auto& parameter : net->parameters()) parameters.push_back(parameter.detach().clone());
    return std::tuple(skipped, parameters, accelerator.cuda_graph_report());
  };
  for (const Asked asked : {Asked::kAtOnce, Asked::kLater, Asked::kNever}) {
    const auto [expected, usual, none] = run(false, asked);
    const auto [skipped, parameters, report] = run(true, asked);
    EXPECT_EQ(skipped, expected);
    for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(parameters[i])) << i;
    EXPECT_GT(report.replayed, 15) << report.last_fallback;
    EXPECT_THAT(report.not_captured, IsEmpty());
  }
}

TEST_F(StepCapture, TwoUpdatesOfOneOptimizerInAStepWithAScaledLossAreTwoGraphs) {
  const auto run = [](bool captured) {
    Accelerator accelerator(silent("fp16", captured, {.init_scale = 1024, .growth_interval = 5}));
    torch::manual_seed(5);
    Net net;
    torch::optim::AdamW adamw(net->parameters(), 1e-2);
    auto [model, optimizer] = accelerator.prepare(net, adamw);
    use_captured_kernels(optimizer);
    auto step = accelerator.step([&, &model = model, &optimizer = optimizer](const at::Tensor& x, const at::Tensor& y) {
      at::Tensor loss;
      for (int half = 0; half < 2; ++half) {
        loss = cross_entropy(model(x), y);
        accelerator.backward(loss);
        optimizer.step();
        optimizer.zero_grad();
      }
      return loss.detach();
    });
    std::vector<at::Tensor> result;
    for (int i = 0; i < 24; ++i) {
      const auto x = randn({8, 12}), y = labels_of(8);
      if (i % 7 == 6) x.fill_(1e30);
      result.push_back(step(x, y).clone());
    }
    for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
    for (const auto& [key, state] : static_cast<torch::optim::Optimizer&>(optimizer).state()) {
      result.push_back(torch::tensor(static_cast<const torch::optim::AdamWParamState&>(*state).step()));
    }
    return std::pair(result, accelerator.cuda_graph_report());
  };
  const auto [usual, none] = run(false);
  const auto [captured, report] = run(true);
  ASSERT_EQ(usual.size(), captured.size());
  for (size_t i = 0; i < usual.size(); ++i) {
    EXPECT_TRUE(usual[i].allclose(captured[i], 0, 0, /*equal_nan=*/true)) << i;
  }
  EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
  EXPECT_GT(report.replayed, 15);
  EXPECT_THAT(report.not_captured, IsEmpty());
}

TEST_F(StepCapture, AnAverageOfTheWeightsIsPartOfTheStep) {
  const auto run = [](bool captured) {
    AcceleratorOptions options = capturing::options();
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    if (captured) options.cuda_graph = CudaGraph{};
    Accelerator accelerator(options);
    torch::manual_seed(5);
    Net net;
    torch::optim::AdamW adamw(net->parameters(), 1e-2);
    auto [model, optimizer] = accelerator.prepare(net, adamw);
    use_captured_kernels(optimizer);
    accelerate::Ema ema(model, {.decay = 0.9});
    for (int i = 0; i < 24; ++i) {
      const auto x = randn({8, 12}), y = labels_of(8);
      auto window = accelerator.accumulate(model);
      accelerator.backward(cross_entropy(model(x), y));
      const auto result = optimizer.step();
      optimizer.zero_grad();
      ema.update(result);
    }
    const auto averaged = ema.apply();
    std::vector<at::Tensor> parameters;
    for (const auto& parameter : net->parameters()) parameters.push_back(parameter.detach().clone());
    return std::pair(parameters, accelerator.cuda_graph_report());
  };
  const auto [usual, none] = run(false);
  const auto [averaged, report] = run(true);
  for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(averaged[i])) << i;
  EXPECT_THAT(report.not_captured, IsEmpty());
}

}  // namespace
