// The unchanged loop with `.cuda_graph`: the same numbers as without, and every step either replayed or run as usual for
// a reason. Here over the host's double of a device that captures; tests/gpu runs it over CUDA.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <optional>

#include "accelerate/accelerate.h"
#include "accelerate/optim/update.h"
#include "tests/unit/capturing.h"

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::CudaGraph;
using accelerate::CudaGraphReport;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
namespace F = torch::nn::functional;

namespace {

class StepCapture : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = capturing::refusal()) GTEST_SKIP() << *why;
  }
};

at::Tensor randn(at::IntArrayRef sizes) { return torch::randn(sizes).to(capturing::device()); }
at::Tensor labels_of(int64_t count) { return torch::randint(0, 4, {count}, torch::kLong).to(capturing::device()); }

struct NetImpl : torch::nn::Module {
  explicit NetImpl(double p = 0, bool norm = false) : dropout(p) {
    register_module("first", first);
    register_module("second", second);
    register_module("third", third);
    register_module("dropout", dropout);
    if (norm) normalize = register_module("norm", torch::nn::BatchNorm1d(16));
  }
  at::Tensor forward(const at::Tensor& x) {
    auto h = torch::relu(first(x));
    if (normalize) h = normalize(h);
    return third(torch::relu(second(dropout(h))));
  }
  torch::nn::Linear first{12, 16}, second{16, 16}, third{16, 4};
  torch::nn::Dropout dropout;
  torch::nn::BatchNorm1d normalize{nullptr};
};
TORCH_MODULE(Net);

/// What a user's loop may do besides the page's.
struct Variant {
  double dropout = 0;
  bool norm = false;
  int64_t accumulate = 1;
  int steps = 24;
  bool window = true;
  std::optional<std::string> mixed_precision = {};
  int64_t small_batch_every = 0;
};

/// The kernels that captured steps use on any device: LibTorch's for the CPU round differently.
void use_captured_kernels(const accelerate::Optimizer& optimizer) {
  optimizer.core()->keep_counters(accelerate::internal::Counters::kOnDevice);
}

struct Result {
  std::vector<at::Tensor> parameters;
  std::vector<double> log;
  CudaGraphReport report;
};

struct Body {
  Accelerator& accelerator;
  const accelerate::Model<NetImpl>& model;
  const accelerate::Optimizer& optimizer;
  int64_t step;
  at::Tensor x, y;
  std::vector<double>& log;
};

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels) {
  return torch::nn::functional::cross_entropy(logits, labels);
}

void page(Body& b) {
  auto window = b.accelerator.accumulate(b.model);
  auto loss = cross_entropy(b.model(b.x), b.y);
  b.accelerator.backward(loss);
  b.optimizer.step();
  b.optimizer.zero_grad();
}

Result train(const Variant& variant, bool captured, const std::function<void(Body&)>& body) {
  AcceleratorOptions options = capturing::options();
  options.gradient_accumulation_steps = variant.accumulate;
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (variant.mixed_precision) options.mixed_precision = *variant.mixed_precision;
  if (captured) options.cuda_graph = CudaGraph{};
  Accelerator accelerator(options);
  torch::manual_seed(1);
  Net net(variant.dropout, variant.norm);
  torch::optim::SGD sgd(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  std::vector<std::pair<at::Tensor, at::Tensor>> batches;
  for (int i = 0; i < 5; ++i) {
    const auto x = randn({8, 12});
    batches.emplace_back(x, labels_of(8));
  }
  auto [model, optimizer] = accelerator.prepare(net, sgd);
  use_captured_kernels(optimizer);
  torch::manual_seed(2);
  Result result;
  for (int64_t i = 0; i < variant.steps; ++i) {
    // Fresh tensors, as a loader gives them.
    auto x = batches[i % 5].first.clone(), y = batches[i % 5].second.clone();
    if (variant.small_batch_every > 0 && i % variant.small_batch_every == 2) {
      x = x.narrow(0, 0, 5).clone();
      y = y.narrow(0, 0, 5).clone();
    }
    Body one{accelerator, model, optimizer, i, x, y, result.log};
    body(one);
  }
  for (const auto& parameter : net->parameters()) result.parameters.push_back(parameter.detach().clone());
  for (const auto& buffer : net->buffers()) result.parameters.push_back(buffer.clone());
  result.report = accelerator.cuda_graph_report();
  return result;
}

/// The same bits with and without; returns what became of the steps.
CudaGraphReport expect_same(const Variant& variant, const std::function<void(Body&)>& body) {
  const Result usual = train(variant, false, body), captured = train(variant, true, body);
  EXPECT_EQ(usual.log, captured.log);
  EXPECT_EQ(usual.parameters.size(), captured.parameters.size());
  for (size_t i = 0; i < usual.parameters.size(); ++i) {
    EXPECT_TRUE(usual.parameters[i].equal(captured.parameters[i]))
        << "parameter " << i << " differs by " << (usual.parameters[i] - captured.parameters[i]).abs().max();
  }
  std::string refusals;
  for (const auto& reason : captured.report.not_captured) refusals += reason + "; ";
  testing::Test::RecordProperty("last_fallback", captured.report.last_fallback);
  if (std::getenv("SHOW_STEPS") != nullptr)
    std::cout << "steps " << captured.report.steps << ", captured " << captured.report.captured << ", replayed "
              << captured.report.replayed << ", fallbacks " << captured.report.fallbacks << " "
              << captured.report.last_fallback << " refused: " << refusals << "\n";
  return captured.report;
}

TEST_F(StepCapture, ThePagesLoopIsReplayedFromTheSixthStepOn) {
  const CudaGraphReport report = expect_same({}, page);
  EXPECT_EQ(report.steps, 24);
  EXPECT_EQ(report.captured, 1);
  EXPECT_EQ(report.replayed, 24 - 5);
  EXPECT_EQ(report.fallbacks, 0);
  EXPECT_THAT(report.not_captured, IsEmpty());
}

/// A body of the page with places for what a user may add.
struct Additions {
  std::function<void(Body&)> before = {};
  std::function<at::Tensor(Body&, const at::Tensor& logits, at::Tensor loss)> loss = {};
  std::function<void(Body&, const at::Tensor& logits, const at::Tensor& loss)> after_backward = {};
  std::function<void(Body&, const at::Tensor& logits, const at::Tensor& loss)> after_step = {};
};

std::function<void(Body&)> with(Additions add) {
  return [add = std::move(add)](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    if (add.before) add.before(b);
    auto logits = b.model(b.x);
    auto loss = cross_entropy(logits, b.y);
    if (add.loss) loss = add.loss(b, logits, loss);
    b.accelerator.backward(loss);
    if (add.after_backward) add.after_backward(b, logits, loss);
    b.optimizer.step();
    if (add.after_step) add.after_step(b, logits, loss);
    b.optimizer.zero_grad();
  };
}

void expect_all_replayed(const CudaGraphReport& report, int64_t kinds = 1) {
  EXPECT_EQ(report.captured, kinds);
  EXPECT_EQ(report.fallbacks, 0) << report.last_fallback;
  EXPECT_THAT(report.not_captured, IsEmpty());
  EXPECT_GT(report.replayed, 0);
}

TEST_F(StepCapture, ALoopWithoutWindowsEndsItsStepsAtTheOptimizer) {
  expect_all_replayed(expect_same({}, [](Body& b) {
    b.optimizer.zero_grad();
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.log.push_back(loss.item<double>());
  }));
}

TEST_F(StepCapture, TheLossMayBeReadAfterTheStepWheneverTheUserLikes) {
  expect_all_replayed(expect_same({}, with({.after_step = [](Body& b, const at::Tensor&, const at::Tensor& loss) {
                                    b.log.push_back(loss.item<double>());
                                  }})));
  const auto now_and_then = [](Body& b, const at::Tensor& logits, const at::Tensor& loss) {
    if (b.step % 4 != 3) return;
    b.log.push_back(loss.item<double>());
    b.log.push_back(logits.sum().item<double>());
  };
  const CudaGraphReport report = expect_same({}, with({.after_step = now_and_then}));
  EXPECT_GE(report.replayed, 15);
}

TEST_F(StepCapture, AReadBeforeTheOptimizerCutsTheGraphInTwo) {
  expect_all_replayed(expect_same({}, with({.after_backward = [](Body& b, const at::Tensor&, const at::Tensor& loss) {
                                    b.log.push_back(loss.item<double>());
                                  }})));
  const CudaGraphReport report =
      expect_same({.dropout = 0.3}, with({.after_backward = [](Body& b, const at::Tensor&, const at::Tensor& loss) {
                    if (b.step % 7 == 6) b.log.push_back(loss.item<double>());
                  }}));
  EXPECT_GT(report.replayed, 5);
  EXPECT_GT(report.fallbacks, 0);
  EXPECT_THAT(report.last_fallback, HasSubstr("aten::item"));
}

TEST_F(StepCapture, AReadBetweenTheModelAndBackwardIsNamedAndNotCaptured) {
  const CudaGraphReport report = expect_same({}, with({.loss = [](Body& b, const at::Tensor&, at::Tensor loss) {
                                               b.log.push_back(loss.item<double>());
                                               return loss;
                                             }}));
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("aten::item waits for the device between the model and"));
}

TEST_F(StepCapture, AnotherTermOfTheLossRunsAsUsual) {
  for (const int64_t at : {4, 5, 6, 13}) {
    const CudaGraphReport report =
        expect_same({.dropout = 0.2}, with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
                      return b.step == at ? loss + logits.pow(2).mean() * 1e-2 : loss;
                    }}));
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, ARateThatChangesNowAndThenIsCapturedAnew) {
  const CudaGraphReport report =
      expect_same({.steps = 40}, with({.before = [](Body& b) {
                    if (b.step % 20 == 0) b.optimizer.param_groups()[0].options().set_lr(0.1 / (1 + b.step / 20));
                  }}));
  EXPECT_GT(report.replayed, 20);
}

TEST_F(StepCapture, BatchesOfAnotherSizeAreAKindOfTheirOwn) {
  const CudaGraphReport report = expect_same({.dropout = 0.3, .steps = 40, .small_batch_every = 4}, page);
  expect_all_replayed(report, 2);
}

TEST_F(StepCapture, DropoutDrawsTheSameNumbers) { expect_all_replayed(expect_same({.dropout = 0.3}, page)); }

TEST_F(StepCapture, BatchNormKeepsItsStatistics) { expect_all_replayed(expect_same({.norm = true}, page)); }

TEST_F(StepCapture, AutocastConvertsTheWeightsOfEachStep) {
  expect_all_replayed(expect_same({.mixed_precision = "bf16"}, page));
}

TEST_F(StepCapture, AnEvaluationInBetweenIsNoStep) {
  expect_all_replayed(expect_same({.dropout = 0.3}, [](Body& b) {
    if (b.step % 7 == 6) {
      const torch::NoGradGuard no_grad;
      b.model->eval();
      b.log.push_back(b.model(b.x).argmax(1).eq(b.y).to(torch::kFloat).mean().item<double>());
      b.model->train();
    }
    page(b);
  }));
}

TEST_F(StepCapture, ResultsThatAreKeptStayAsTheyWere) {
  std::vector<at::Tensor> losses, rows;
  at::Tensor average, outer;
  const auto body = with({.after_step = [&](Body& b, const at::Tensor& logits, const at::Tensor& loss) {
    if (b.step == 0) losses.clear(), rows.clear(), average = at::Tensor();
    losses.push_back(loss.detach());
    if (b.step % 3 == 0) rows.push_back(logits.select(0, 1));
    average = average.defined() ? average * 0.9 + loss.detach() * 0.1 : loss.detach().clone();
    outer = loss;
    if (b.step != 23) return;
    for (const auto& kept : losses) b.log.push_back(kept.item<double>());
    for (const auto& kept : rows) b.log.push_back(kept.sum().item<double>());
    b.log.push_back(average.item<double>());
    b.log.push_back(outer.item<double>());
  }});
  const CudaGraphReport report = expect_same({}, body);
  EXPECT_GT(report.replayed, 10);
}

TEST_F(StepCapture, LogitsKeptNowAndThenOutliveTheNextSteps) {
  at::Tensor before;
  const CudaGraphReport report = expect_same({.dropout = 0.1}, [&](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    if (b.step == 0) before = at::Tensor();
    auto logits = b.model(b.x);
    auto loss = cross_entropy(logits, b.y);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
    if (b.step % 5 != 4) return;
    if (before.defined()) b.log.push_back(before.sum().item<double>());
    before = logits;
  });
  EXPECT_GT(report.replayed, 14);
}

TEST_F(StepCapture, AccumulatedGradientsHaveKindsOfTheirOwn) {
  for (const int64_t micro_steps : {2, 3, 4}) {
    const CudaGraphReport report = expect_same({.dropout = 0.1, .accumulate = micro_steps, .steps = 60}, page);
    EXPECT_EQ(report.captured, std::min<int64_t>(micro_steps, 3));
    EXPECT_GT(report.replayed, 25);
    EXPECT_THAT(report.not_captured, IsEmpty());
  }
}

TEST_F(StepCapture, GradientsThatBecomeZeroKeepTheirPlace) {
  expect_all_replayed(expect_same({.steps = 30},
                                  [](Body& b) {
                                    auto window = b.accelerator.accumulate(b.model);
                                    auto loss = cross_entropy(b.model(b.x), b.y);
                                    b.accelerator.backward(loss);
                                    b.optimizer.step();
                                    b.optimizer.zero_grad({.set_to_none = false});
                                  }),
                      1);
}

TEST_F(StepCapture, ClippingReadsTheNormOnTheHostAndCutsTheGraph) {
  const CudaGraphReport report = expect_same({}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(loss);
    const auto clipped = b.accelerator.clip_grad_norm_(b.model, {.max_norm = 0.05});
    b.optimizer.step();
    b.log.push_back(clipped.norm.item<double>());
    b.optimizer.zero_grad();
  });
  EXPECT_GT(report.replayed, 15);
}

TEST_F(StepCapture, GradientsMayBeLookedAtAfterTheStep) {
  const CudaGraphReport report = expect_same({}, with({.after_step = [](Body& b, const at::Tensor&, const at::Tensor&) {
                                               b.log.push_back(b.model->first->weight.grad().sum().item<double>());
                                             }}));
  EXPECT_GT(report.replayed, 15);
}

TEST_F(StepCapture, InputsMayBeTheSameTensorsFilledAgain) {
  at::Tensor x, y;
  expect_all_replayed(expect_same({}, [&](Body& b) {
    if (b.step == 0) x = b.x.clone(), y = b.y.clone();
    x.copy_(b.x);
    y.copy_(b.y);
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(x), y);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
  }));
}

TEST_F(StepCapture, AViewOfAnInputIsAViewOfThisStepsInput) {
  std::vector<at::Tensor> kept;
  const CudaGraphReport report = expect_same({}, [&](Body& b) {
    if (b.step == 0) kept.clear();
    auto window = b.accelerator.accumulate(b.model);
    const auto rows = b.x.view({-1, 12});
    auto logits = b.model(b.x);
    const auto labels = b.y.view({-1});
    auto loss = cross_entropy(logits, labels);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
    kept.push_back(labels);
    if (b.step != 23) return;
    for (const auto& one : kept) b.log.push_back(one.sum().item<double>());
  });
  EXPECT_GT(report.replayed, 10);
}

TEST_F(StepCapture, AnOperatorThatThrowsDoesSoAsUsual) {
  const CudaGraphReport report =
      expect_same({.dropout = 0.1}, with({.loss = [](Body& b, const at::Tensor& logits, at::Tensor loss) {
                    if (b.step == 11) {
                      try {
                        at::mm(logits, logits);
                      } catch (const c10::Error&) {
                        b.log.push_back(1);
                      }
                    }
                    return loss;
                  }}));
  EXPECT_GT(report.replayed, 10);
}

TEST_F(StepCapture, AStepThatThrowsLeavesWhatItLeavesWithoutCapture) {
  for (const int64_t at : {3, 4, 5, 14}) {
    const CudaGraphReport report = expect_same({.dropout = 0.1, .norm = true}, [at](Body& b) {
      try {
        with({.after_backward = [at](Body& one, const at::Tensor&, const at::Tensor&) {
          if (one.step == at) throw std::runtime_error("the user's own");
        }})(b);
      } catch (const std::runtime_error&) {
        b.log.push_back(2);
        b.log.push_back(b.model->first->weight.grad().sum().item<double>());
        b.optimizer.zero_grad();
      }
    });
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, AStepThatIsGivenUpAfterBackwardHasItsGradients) {
  const CudaGraphReport report = expect_same({.dropout = 0.3}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(loss);
    if (b.step % 9 == 8) return;
    b.optimizer.step();
    b.optimizer.zero_grad();
  });
  EXPECT_GT(report.replayed, 5);
}

TEST_F(StepCapture, AFrozenLayerAndANewStorageAreSeen) {
  const CudaGraphReport frozen = expect_same({.steps = 30}, with({.before = [](Body& b) {
                                               if (b.step == 12) b.model->first->weight.set_requires_grad(false);
                                             }}));
  EXPECT_GT(frozen.fallbacks, 0);
  EXPECT_GT(frozen.replayed, 12);
  const CudaGraphReport moved =
      expect_same({.steps = 30}, with({.before = [](Body& b) {
                    if (b.step == 12) b.model->first->weight.set_data(b.model->first->weight.detach().clone() * 0.9);
                  }}));
  EXPECT_GT(moved.fallbacks, 0);
  EXPECT_GT(moved.replayed, 12);
}

TEST_F(StepCapture, HooksOfTheUsersAreNamedAndNotCaptured) {
  const CudaGraphReport late =
      expect_same({}, with({.before = [](Body& b) {
                    if (b.step == 12)
                      b.model->first->weight.register_hook([](const at::Tensor& gradient) { return gradient * 0.5; });
                  }}));
  EXPECT_GT(late.replayed, 3);
  ASSERT_THAT(late.not_captured, SizeIs(1));
  EXPECT_THAT(late.not_captured[0], HasSubstr("a hook of the user's"));
  const CudaGraphReport inner =
      expect_same({}, with({.loss = [](Body&, const at::Tensor& logits, at::Tensor loss) {
                    logits.register_hook([](const at::Tensor& gradient) { return gradient * 0.5; });
                    return loss;
                  }}));
  EXPECT_EQ(inner.replayed, 0);
  EXPECT_THAT(inner.not_captured, SizeIs(1));
  const CudaGraphReport retained = expect_same({}, with({.loss = [](Body&, const at::Tensor& logits, at::Tensor loss) {
                                                 logits.retain_grad();
                                                 return loss;
                                               }}));
  EXPECT_EQ(retained.replayed, 0);
}

struct Square : torch::autograd::Function<Square> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x) {
    context->save_for_backward({x});
    return x * x;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {gradients[0] * context->get_saved_variables()[0] * 2};
  }
};

TEST_F(StepCapture, AFunctionOfTheUsersIsNamedAndNotCaptured) {
  const CudaGraphReport report = expect_same({}, with({.loss = [](Body&, const at::Tensor& logits, at::Tensor loss) {
                                               return loss + Square::apply(logits).mean() * 0.1;
                                             }}));
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("torch::autograd::Function"));
}

TEST_F(StepCapture, WorkPastTheOperatorsIsNoticedWhileCapturing) {
  const CudaGraphReport report =
      expect_same({.dropout = 0.2}, with({.loss = [](Body& b, const at::Tensor&, at::Tensor loss) {
                    if (b.step == 4) capturing::give_unknown_work(b.x);
                    return loss;
                  }}));
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("past LibTorch's operators"));
}

TEST_F(StepCapture, AutogradPastTheAcceleratorIsNamedAndNotCaptured) {
  const CudaGraphReport report = expect_same({}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    loss.backward();
    b.optimizer.step();
    b.optimizer.zero_grad();
  });
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("accelerator.backward(loss)"));
}

TEST_F(StepCapture, AutogradPastTheAcceleratorInOneStepRunsAsUsual) {
  const CudaGraphReport report = expect_same({.dropout = 0.2}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.step == 12 ? loss.backward() : b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
  });
  EXPECT_EQ(report.fallbacks, 1);
  EXPECT_GT(report.replayed, 10);
}

TEST_F(StepCapture, AutogradFromAGradientPastTheAcceleratorIsAnErrorThatSaysSo) {
  const at::Tensor gradient = torch::ones({8, 4}).to(capturing::device());
  try {
    train({}, true, with({.loss = [&](Body& b, const at::Tensor& logits, at::Tensor loss) {
            if (b.step == 12) logits.backward(gradient);
            return loss;
          }}));
    FAIL() << "no error";
  } catch (const accelerate::UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("[cuda_graph] Autograd was run past the Accelerator"));
  }
}

TEST_F(StepCapture, ANumberOfTheHostThatChangesInEveryStepIsGivenUp) {
  const CudaGraphReport report =
      expect_same({.steps = 80}, with({.loss = [](Body& b, const at::Tensor&, at::Tensor loss) {
                    return loss * (1 + 0.01 * static_cast<double>(b.step));
                  }}));
  EXPECT_EQ(report.replayed, 0);
  EXPECT_THAT(report.not_captured, SizeIs(1));
}

TEST_F(StepCapture, TwoLossesThroughOneGraph) {
  expect_all_replayed(expect_same({.dropout = 0.2}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto logits = b.model(b.x);
    auto loss = cross_entropy(logits, b.y);
    auto size = logits.pow(2).mean() * 0.01;
    b.accelerator.backward(loss, {.retain_graph = true});
    b.accelerator.backward(size);
    b.optimizer.step();
    b.optimizer.zero_grad();
  }));
}

TEST_F(StepCapture, AGraphOfTheGradientsIsNotCaptured) {
  const CudaGraphReport report = expect_same({}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(loss, {.create_graph = true});
    b.optimizer.step();
    b.optimizer.zero_grad();
  });
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("create_graph"));
}

TEST_F(StepCapture, MemoryOfAResultPastTheOperatorsIsNotCaptured) {
  const CudaGraphReport report = expect_same({}, with({.loss = [](Body&, const at::Tensor& logits, at::Tensor loss) {
                                               return loss + logits.data().mean() * 0.5;
                                             }}));
  EXPECT_EQ(report.replayed, 0);
  EXPECT_THAT(report.not_captured, SizeIs(1));
}

TEST_F(StepCapture, TheAddressOfAResultThatHasNotBeenLaunchedIsRefused) {
  EXPECT_THROW(train({}, true,
                     with({.loss =
                               [](Body& b, const at::Tensor&, at::Tensor loss) {
                                 if (b.step == 12) b.log.push_back(*static_cast<const float*>(loss.const_data_ptr()));
                                 return loss;
                               }})),
               c10::Error);
}

TEST_F(StepCapture, AResultOutlivesItsAccelerator) {
  at::Tensor kept;
  std::vector<double> log;
  const auto body = with({.after_step = [&](Body&, const at::Tensor&, const at::Tensor& loss) { kept = loss; }});
  train({}, false, body);
  const double usual = kept.item<double>();
  train({}, true, body);
  EXPECT_EQ(kept.item<double>(), usual);
}

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
  const auto padded = [](const at::Tensor& out) { return F::pad(out, F::PadFuncOptions({0, 8})); };
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

/// AdamW with a warm-up, the rate another one in every step, clipping; `spoil` makes some losses infinite.
std::pair<std::vector<at::Tensor>, CudaGraphReport> with_schedule(bool captured, const char* precision, bool spoil) {
  AcceleratorOptions options = capturing::options();
  options.gradient_accumulation_steps = 2;
  options.mixed_precision = precision;
  options.scaler_handler = accelerate::GradScalerKwargs{.init_scale = 1024, .growth_interval = 5};
  options.log_sink = [](accelerate::LogLevel, std::string_view) {};
  if (captured) options.cuda_graph = CudaGraph{};
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

}  // namespace
