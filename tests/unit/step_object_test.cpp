// Where steps begin and end with `.cuda_graph`: windows, optimizers and step objects, several models and Accelerators.
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// A generator and a critic, each with an optimizer of its own.
struct Pair {
  Accelerator accelerator;
  Net generator, critic;
  torch::optim::SGD of_generator, of_critic;
  explicit Pair(AcceleratorOptions options)
      : accelerator(std::move(options)),
        of_generator(seeded(generator), 0.05),
        of_critic(critic->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9)) {}
  static std::vector<at::Tensor> seeded(Net& net) { return net->parameters(); }
};

enum class Boundaries { kWindow, kNone, kStepObject, kTwoStepObjects };

std::pair<std::vector<at::Tensor>, CudaGraphReport> adversarial(bool captured, Boundaries boundaries) {
  AcceleratorOptions options = capturing::options();
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (captured) options.cuda_graph = CudaGraph{};
  torch::manual_seed(3);
  Pair pair(options);
  Accelerator& accelerator = pair.accelerator;
  auto [generator, critic, of_generator, of_critic] =
      accelerator.prepare(pair.generator, pair.critic, pair.of_generator, pair.of_critic);
  use_captured_kernels(of_generator);
  use_captured_kernels(of_critic);
  const auto padded = [](const at::Tensor& out) {
    return torch::nn::functional::pad(out, torch::nn::functional::PadFuncOptions({0, 8}));
  };
  const auto criticise = [&, &generator = generator, &critic = critic, &of_critic = of_critic](const at::Tensor& x) {
    const auto fake = padded(generator(x)).detach();
    auto loss = critic(x).mean() - critic(fake).mean();
    accelerator.backward(loss);
    of_critic.step();
    of_critic.zero_grad();
    return loss;
  };
  const auto generate = [&, &generator = generator, &critic = critic, &of_generator = of_generator,
                         &of_critic = of_critic](const at::Tensor& x) {
    auto loss = critic(padded(generator(x))).mean();
    accelerator.backward(loss);
    of_generator.step();
    of_generator.zero_grad();
    of_critic.zero_grad();
    return loss;
  };
  auto both = accelerator.step([&](const at::Tensor& x) { return criticise(x) + generate(x); });
  auto first = accelerator.step(criticise);
  auto second = accelerator.step(generate);
  std::vector<at::Tensor> result;
  for (int i = 0; i < 20; ++i) {
    const auto x = randn({8, 12});
    at::Tensor loss;
    switch (boundaries) {
      case Boundaries::kWindow: {
        auto window = accelerator.accumulate(generator, critic);
        loss = criticise(x) + generate(x);
        break;
      }
      case Boundaries::kNone:
        loss = criticise(x) + generate(x);
        break;
      case Boundaries::kStepObject:
        loss = both(x);
        break;
      case Boundaries::kTwoStepObjects:
        loss = first(x) + second(x);
        break;
    }
    result.push_back(loss.detach().clone());
  }
  for (const auto& parameter : pair.generator->parameters()) result.push_back(parameter.detach().clone());
  for (const auto& parameter : pair.critic->parameters()) result.push_back(parameter.detach().clone());
  return {result, accelerator.cuda_graph_report()};
}

TEST_F(StepCapture, TwoModelsAndTwoOptimizersInAnyKindOfStep) {
  for (const auto boundaries :
       {Boundaries::kWindow, Boundaries::kNone, Boundaries::kStepObject, Boundaries::kTwoStepObjects}) {
    const auto [usual, none] = adversarial(false, boundaries);
    const auto [captured, report] = adversarial(true, boundaries);
    ASSERT_EQ(usual.size(), captured.size());
    for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(captured[i])) << i;
    EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
    EXPECT_THAT(report.not_captured, IsEmpty());
    const bool two = boundaries == Boundaries::kNone || boundaries == Boundaries::kTwoStepObjects;
    EXPECT_EQ(report.captured, two ? 2 : 1);
    EXPECT_GT(report.replayed, two ? 25 : 14);
  }
}

TEST_F(StepCapture, TwoStepObjectsOfOneModelTakeTurns) {
  const auto run = [](bool captured) {
    AcceleratorOptions options = capturing::options();
    if (captured) options.cuda_graph = CudaGraph{};
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    Accelerator accelerator(options);
    torch::manual_seed(7);
    Net net(0.2);
    torch::optim::AdamW adamw(net->parameters(), 1e-2);
    auto [model, optimizer] = accelerator.prepare(net, adamw);
    use_captured_kernels(optimizer);
    const auto update = [&, &optimizer = optimizer](const at::Tensor& loss) {
      accelerator.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      return loss.detach();
    };
    auto classify = accelerator.step(
        [&, &model = model](const at::Tensor& x, const at::Tensor& y) { return update(cross_entropy(model(x), y)); });
    auto shrink = accelerator.step([&, &model = model](const at::Tensor& x) { return update(model(x).pow(2).mean()); });
    std::vector<at::Tensor> result;
    for (int i = 0; i < 24; ++i) {
      const auto x = randn({8, 12}), y = labels_of(8);
      result.push_back(i % 3 == 2 ? shrink(x) : classify(x, y));
    }
    for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
    return std::pair(result, accelerator.cuda_graph_report());
  };
  const auto [usual, none] = run(false);
  const auto [captured, report] = run(true);
  for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(captured[i])) << i;
  expect_all_replayed(report, 2);
}

TEST_F(StepCapture, AStepObjectReturnsWhatItsBodyReturns) {
  Accelerator accelerator(capturing::options());
  auto twice = accelerator.step([](int64_t number) { return 2 * number; });
  EXPECT_EQ(twice(21), 42);
  int64_t calls = 0;
  auto nothing = accelerator.step([&](const at::Tensor&) { ++calls; });
  nothing(torch::ones({1}));
  EXPECT_EQ(calls, 1);
  accelerator.end_training();
  EXPECT_EQ(twice(1), 2);
}

TEST_F(StepCapture, AStepInsideAStepIsAnError) {
  AcceleratorOptions options = capturing::options();
  options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  auto inner = accelerator.step([] { return 1; });
  auto outer = accelerator.step([&] { return inner(); });
  try {
    outer();
    FAIL() << "no error";
  } catch (const accelerate::UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("[step] A step begins inside another one"));
  }
  EXPECT_EQ(inner(), 1);
}

TEST_F(StepCapture, MoreKindsThanAllowedRunAsUsualWithOneLine) {
  std::vector<std::string> lines;
  AcceleratorOptions options = capturing::options();
  options.cuda_graph = CudaGraph{.warmup_steps = 1, .max_graphs = 1};
  options.log_sink = [&](accelerate::LogLevel level, std::string_view line) {
    if (level == accelerate::LogLevel::kWarning) lines.emplace_back(line);
  };
  Accelerator accelerator(options);
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.1);
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  for (int i = 0; i < 12; ++i) {
    accelerator.backward(model(randn({4 + i % 3, 12})).mean());
    optimizer.step();
    optimizer.zero_grad();
  }
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], HasSubstr("a further kind of step is not captured: there are 1 already"));
  EXPECT_EQ(accelerator.cuda_graph_report().captured, 1);
}

TEST_F(StepCapture, TwoAcceleratorsInOneThreadTakeTurns) {
  AcceleratorOptions options = capturing::options();
  options.cuda_graph = CudaGraph{};
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  Accelerator one(options), other(options);
  Net a, b;
  torch::optim::SGD of_a(a->parameters(), 0.1), of_b(b->parameters(), 0.1);
  auto [model_a, optimizer_a] = one.prepare(a, of_a);
  auto [model_b, optimizer_b] = other.prepare(b, of_b);
  for (int i = 0; i < 12; ++i) {
    one.backward(model_a(randn({4, 12})).mean());
    optimizer_a.step();
    optimizer_a.zero_grad();
    other.backward(model_b(randn({4, 12})).mean());
    optimizer_b.step();
    optimizer_b.zero_grad();
  }
  EXPECT_EQ(one.cuda_graph_report().replayed, 7);
  EXPECT_EQ(other.cuda_graph_report().replayed, 7);
  const auto loss = model_a(randn({4, 12})).mean();
  EXPECT_THROW(model_b(randn({4, 12})), accelerate::UsageError);
}

TEST_F(StepCapture, OptionsOutOfRangeAreRefused) {
  AcceleratorOptions options = capturing::options();
  options.cuda_graph = CudaGraph{.max_graphs = 0};
  EXPECT_THROW(Accelerator{options}, accelerate::ConfigError);
  options.cuda_graph = CudaGraph{.warmup_steps = 0};
  EXPECT_THROW(Accelerator{options}, accelerate::ConfigError);
  EXPECT_EQ(Accelerator(capturing::options()).cuda_graph_report().steps, 0);
}

}  // namespace
