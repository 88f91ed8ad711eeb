// Steps with `.cuda_graph` that do something else than what was captured, or can never be captured: the same numbers as
// without, and the reason.
#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

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

TEST_F(StepCapture, WorkPastTheOperatorsIsNoticedWhileCapturingAndDoneOnce) {
  for (const bool before_backward : {true, false}) {
    at::Tensor counter, kept;
    const auto body = [&](Body& b) {
      if (b.step == 0) counter = torch::zeros({}).to(capturing::device());
      auto window = b.accelerator.accumulate(b.model);
      auto logits = b.model(b.x);
      if (before_backward) capturing::give_unknown_work(counter);
      auto loss = cross_entropy(logits, b.y);
      b.accelerator.backward(loss);
      if (!before_backward) capturing::give_unknown_work(counter);
      b.optimizer.step();
      b.optimizer.zero_grad();
      if (b.step == 4) kept = logits;
      if (b.step != 23) return;
      b.log.push_back(counter.item<double>());
      b.log.push_back(kept.sum().item<double>());
    };
    const CudaGraphReport report = expect_same({.dropout = 0.2}, body);
    EXPECT_EQ(report.replayed, 0);
    ASSERT_THAT(report.not_captured, SizeIs(1));
    EXPECT_THAT(report.not_captured[0], HasSubstr("past LibTorch's operators"));
  }
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

}  // namespace
