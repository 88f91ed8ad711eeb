// The unchanged loop with `.cuda_graph`: the same numbers as without, and steps that are replayed. Here over the host's
// double of a device that captures; tests/gpu runs it over CUDA.
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST_F(StepCapture, ThePagesLoopIsReplayedFromTheSixthStepOn) {
  const CudaGraphReport report = expect_same({}, page);
  EXPECT_EQ(report.steps, 24);
  EXPECT_EQ(report.captured, 1);
  EXPECT_EQ(report.replayed, 24 - 5);
  EXPECT_EQ(report.fallbacks, 0);
  EXPECT_THAT(report.not_captured, IsEmpty());
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

// Masters, and the state of what rounds by chance, are the same tensors in every step.
TEST_F(StepCapture, ParametersOf16BitsAreUpdatedAsWithout) {
  for (const char* precision : {"bf16_master", "bf16_stochastic"}) {
    SCOPED_TRACE(precision);
    expect_all_replayed(expect_same({.mixed_precision = precision}, page));
    expect_all_replayed(expect_same({.dropout = 0.3, .norm = true, .mixed_precision = precision}, page));
    expect_all_replayed(expect_same({.accumulate = 3, .steps = 48, .mixed_precision = precision}, page), 3);
  }
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

TEST_F(StepCapture, AResultOutlivesItsAccelerator) {
  at::Tensor kept;
  std::vector<double> log;
  const auto body = with({.after_step = [&](Body&, const at::Tensor&, const at::Tensor& loss) { kept = loss; }});
  train({}, false, body);
  const double usual = kept.item<double>();
  train({}, true, body);
  EXPECT_EQ(kept.item<double>(), usual);
}

TEST_F(StepCapture, ASumOfLossesMayBeANewOneInEveryEpoch) {
  for (const bool of_each_step : {false, true}) {
    at::Tensor sum;
    const CudaGraphReport report = expect_same({.dropout = 0.1, .steps = 60}, [&](Body& b) {
      if (b.step == 0) sum = at::Tensor();
      if (b.step % 15 == 0 || of_each_step) {
        if (sum.defined()) b.log.push_back(sum.item<double>());
        sum = torch::zeros({}).to(capturing::device());
      }
      auto window = b.accelerator.accumulate(b.model);
      auto loss = cross_entropy(b.model(b.x), b.y);
      b.accelerator.backward(loss);
      b.optimizer.step();
      sum += loss.detach();
      b.optimizer.zero_grad();
      if (b.step == 59) b.log.push_back(sum.item<double>());
    });
    EXPECT_THAT(report.not_captured, testing::IsEmpty());
    EXPECT_LE(report.fallbacks, 1);
    EXPECT_GT(report.replayed, 50);
  }
}

}  // namespace
