// Captured steps whose objects come and go: Accelerators, models, threads, exceptions in odd places.
#include <thread>

#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

AcceleratorOptions capturing_options() {
  AcceleratorOptions options = capturing::options();
  options.cuda_graph = CudaGraph{};
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  return options;
}

TEST_F(StepCapture, AnAcceleratorMayBeDestroyedInAnotherThreadInTheMiddleOfAStep) {
  Net net;
  torch::optim::SGD sgd(net->parameters(), 0.1);
  at::Tensor loss;
  {
    auto accelerator = std::make_unique<Accelerator>(capturing_options());
    auto [model, optimizer] = accelerator->prepare(net, sgd);
    use_captured_kernels(optimizer);
    for (int i = 0; i < 10; ++i) {
      accelerator->backward(model(randn({4, 12})).mean());
      optimizer.step();
      optimizer.zero_grad();
    }
    EXPECT_EQ(accelerator->cuda_graph_report().replayed, 5);
    loss = model(randn({4, 12})).mean();
    std::thread([&] { accelerator.reset(); }).join();
  }
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  EXPECT_EQ(at::ones({3}).sum().item<double>(), 3) << "operators of this thread have no observer any more";
  Accelerator next(capturing_options());
  auto [model, optimizer] = next.prepare(net, sgd);
  next.backward(model(randn({4, 12})).mean());
  optimizer.step();
}

/// What a capture does meanwhile, it does on streams that LibTorch gives out again and again.
TEST_F(StepCapture, ManyCapturesOneAfterTheOther) {
  for (int i = 0; i < 40; ++i) expect_all_replayed(expect_same({.steps = 8}, page));
}

TEST_F(StepCapture, AStepThatCouldNotBeginLeavesNothingOpen) {
  Accelerator one(capturing_options()), other(capturing_options());
  Net a, b;
  torch::optim::SGD of_a(a->parameters(), 0.1), of_b(b->parameters(), 0.1);
  auto [model_a, optimizer_a] = one.prepare(a, of_a);
  auto [model_b, optimizer_b] = other.prepare(b, of_b);
  const auto train_b = [&, &model_b = model_b, &optimizer_b = optimizer_b] {
    other.backward(model_b(randn({4, 12})).mean());
    optimizer_b.step();
    optimizer_b.zero_grad();
  };
  for (int i = 0; i < 4; ++i) train_b();
  for (int i = 0; i < 2; ++i) one.backward(model_a(randn({4, 12})).mean()), optimizer_a.step();
  for (int i = 0; i < 3; ++i) {
    const auto loss = model_a(randn({4, 12})).mean();
    EXPECT_THROW(model_b(randn({4, 12})), accelerate::UsageError);
    one.backward(loss);
    optimizer_a.step();
    train_b();
  }
  EXPECT_EQ(other.cuda_graph_report().captured, 1);
  EXPECT_EQ(other.cuda_graph_report().fallbacks, 0) << other.cuda_graph_report().last_fallback;
}

TEST_F(StepCapture, FreeMemoryLetsCapturedStepsGo) {
  Accelerator accelerator(capturing_options());
  std::weak_ptr<torch::nn::Module> gone;
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> parameter{
      c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>()};
  at::Tensor kept, in_the_middle;
  double usual = 0;
  // More models than there may be kinds of steps.
  for (int round = 0; round < 10; ++round) {
    Net net;
    torch::optim::SGD sgd(net->parameters(), 0.1);
    parameter =
        c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(net->first->weight.getIntrusivePtr());
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    use_captured_kernels(optimizer);
    const auto x = randn({4, 12});
    for (int i = 0; i < 10; ++i) {
      auto loss = model(x).mean();
      accelerator.backward(loss);
      optimizer.step();
      optimizer.zero_grad();
      kept = loss;
    }
    usual = kept.item<double>();
    in_the_middle = model(x).mean();
    accelerator.free_memory();
    EXPECT_TRUE(in_the_middle.equal(net->forward(x).mean()));
  }
  EXPECT_EQ(kept.item<double>(), usual);
  kept = in_the_middle = at::Tensor();  // their graphs reach it
  EXPECT_TRUE(parameter.expired()) << "captured work holds a parameter";
  EXPECT_EQ(accelerator.cuda_graph_report().captured, 10);
  EXPECT_THAT(accelerator.cuda_graph_report().not_captured, IsEmpty());
}

TEST_F(StepCapture, AnOptimizerThatAsksForTheLossAgain) {
  for (const bool as_step : {false, true}) {
    const auto run = [&](bool captured) {
      AcceleratorOptions options = capturing_options();
      if (!captured) options.cuda_graph.reset();
      Accelerator accelerator(options);
      torch::manual_seed(3);
      Net net;
      torch::optim::LBFGS lbfgs(net->parameters(), torch::optim::LBFGSOptions(0.1).max_iter(3));
      auto [model, optimizer] = accelerator.prepare(net, lbfgs);
      std::vector<at::Tensor> result;
      const auto body = [&, &model = model, &optimizer = optimizer](const at::Tensor& x, const at::Tensor& y) {
        return optimizer
            .step([&] {
              optimizer.zero_grad();
              auto loss = cross_entropy(model(x), y);
              accelerator.backward(loss);
              return loss;
            })
            .loss();
      };
      auto step = accelerator.step(body);
      for (int i = 0; i < 16; ++i) {
        const auto x = randn({8, 12}), y = labels_of(8);
        const auto loss = as_step ? step(x, y) : body(x, y);
        result.push_back(loss.clone());
      }
      for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
      return result;
    };
    const auto usual = run(false), captured = run(true);
    ASSERT_EQ(usual.size(), captured.size());
    for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(captured[i])) << i;
  }
}

TEST_F(StepCapture, AnExceptionInAStepObjectLeavesWhatItLeavesWithoutCapture) {
  const auto run = [](bool captured) {
    AcceleratorOptions options = capturing_options();
    if (!captured) options.cuda_graph.reset();
    Accelerator accelerator(options);
    torch::manual_seed(3);
    Net net(0.1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    use_captured_kernels(optimizer);
    int64_t calls = 0;
    auto step = accelerator.step([&, &model = model, &optimizer = optimizer](const at::Tensor& x) {
      auto loss = model(x).pow(2).mean();
      const int64_t at = calls++;
      if (at % 11 == 4) throw std::runtime_error("before the pass");
      accelerator.backward(loss);
      if (at % 11 == 8) throw std::runtime_error("after the pass");
      optimizer.step();
      if (at % 11 == 10) throw std::runtime_error("after the update");
      optimizer.zero_grad();
      return loss.detach();
    });
    std::vector<at::Tensor> result;
    for (int i = 0; i < 50; ++i) {
      const auto x = randn({8, 12});
      try {
        result.push_back(step(x));
      } catch (const std::runtime_error&) {
        for (const auto& parameter : net->parameters()) {
          result.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros({1}));
        }
        optimizer.zero_grad();
      }
    }
    for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
    return std::pair(result, accelerator.cuda_graph_report());
  };
  const auto [usual, none] = run(false);
  const auto [captured, report] = run(true);
  ASSERT_EQ(usual.size(), captured.size());
  for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(captured[i])) << i;
  EXPECT_GT(report.replayed, 20);
}

TEST_F(StepCapture, AHostThatWaitsInTheMiddleOfAStepIsToldOnceAndTrainsOn) {
  const auto run = [](bool captured) {
    AcceleratorOptions options = capturing_options();
    if (!captured) options.cuda_graph.reset();
    Accelerator accelerator(options);
    torch::manual_seed(3);
    Net net(0.1);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    use_captured_kernels(optimizer);
    std::vector<at::Tensor> result;
    int64_t thrown = 0;
    for (int i = 0; i < 12; ++i) {
      try {
        const auto x = randn({8, 12});
        auto window = accelerator.accumulate(model);
        auto loss = model(x).pow(2).mean();
        accelerator.backward(loss);
        optimizer.step();
        optimizer.zero_grad();
        result.push_back(loss.detach());
        capturing::wait_for_device();
      } catch (const c10::Error&) {
        ++thrown;
      }
    }
    for (const auto& parameter : net->parameters()) result.push_back(parameter.detach().clone());
    for (auto& tensor : result) tensor = tensor.cpu();
    return std::tuple(result, thrown, accelerator.cuda_graph_report());
  };
  const auto [usual, never, none] = run(false);
  const auto [captured, thrown, report] = run(true);
  EXPECT_EQ(never, 0);
  EXPECT_EQ(thrown, 1);
  ASSERT_EQ(usual.size(), captured.size());
  for (size_t i = 0; i < usual.size(); ++i) EXPECT_TRUE(usual[i].equal(captured[i])) << i;
  EXPECT_THAT(report.not_captured, testing::ElementsAre(testing::HasSubstr("torch::cuda::synchronize()")));
}

TEST_F(StepCapture, SeedsThatAreSetInTheMiddleOfAStep) {
  for (const bool always : {true, false}) {
    expect_same({.dropout = 0.3}, with({.loss = [always](Body& b, const at::Tensor& logits, at::Tensor loss) {
                  if (always || b.step == 12) torch::manual_seed(static_cast<uint64_t>(100 + b.step));
                  return loss + torch::dropout(logits, 0.5, true).pow(2).mean();
                }}));
  }
}

}  // namespace
