// Loops that nobody has chosen: whatever steps do, in whatever order, the numbers with `.cuda_graph` are those without.
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;

/// What one step does besides the page's; most do nothing.
enum class Act {
  kNothing,
  kReadBefore,
  kReadBetween,
  kReadAfter,
  kKeepLoss,
  kKeepLogits,
  kTerm,
  kGiveUp,
  kThrow,
  kEvaluate,
  kRate,
  kSmallBatch,
  kZeroInPlace,
  kNoZero,
  kSecondForward,
  kInPlace,
  kSumOfEpoch,
  kFreeze,
  kThaw,
  kFirstPass,
  kResetPass,
  kRetained,
  kAddedUp,
  kForm,
  kFreezePhase,
  kHook,
  kRetainGrad,
  kExpanded,
  kSameInput,
  kWriteInput,
  kBuffer,
  kReplacedBuffer,
  kPassAfterStep,
  kHalveGradients,
  kInferenceMode,
};
constexpr int kActs = static_cast<int>(Act::kInferenceMode) + 1;

struct Loop {
  Variant variant;
  std::vector<Act> acts;
};

rc::Gen<Loop> loops() {
  return rc::gen::exec([] {
    Loop loop;
    loop.variant.dropout = *rc::gen::element(0.0, 0.2);
    loop.variant.norm = *rc::gen::element(false, true);
    loop.variant.accumulate = *rc::gen::element<int64_t>(1, 1, 2, 3);
    loop.variant.steps = *rc::gen::resize(100, rc::gen::inRange(12, 50));
    // A few acts come again and again, as in a real loop.
    const int kinds = *rc::gen::resize(100, rc::gen::inRange(0, 4));
    std::vector<Act> some;
    for (int i = 0; i < kinds; ++i) {
      some.push_back(static_cast<Act>(*rc::gen::resize(100, rc::gen::inRange(0, kActs))));
    }
    for (int64_t i = 0; i < loop.variant.steps; ++i) {
      const bool acts = !some.empty() && *rc::gen::resize(100, rc::gen::inRange(0, 4)) == 0;
      loop.acts.push_back(acts ? some[*rc::gen::resize(100, rc::gen::inRange<size_t>(0, some.size()))] : Act::kNothing);
    }
    return loop;
  });
}

/// Kept from one step to another.
struct Kept {
  std::vector<at::Tensor> tensors;
  at::Tensor sum;  ///< of the losses of an epoch of 7 steps
  at::Tensor buffer;
};

void act(Body& b, Act what, Kept& kept) {
  if (b.step == 0) {
    kept = {};
    kept.buffer = torch::ones({4}).to(capturing::device());
  }
  if (b.step % 7 == 0) {
    if (kept.sum.defined()) kept.tensors.push_back(kept.sum);
    kept.sum = torch::zeros({}).to(capturing::device());
  }
  if (what == Act::kEvaluate) {
    const torch::NoGradGuard no_grad;
    b.model->eval();
    b.log.push_back(b.model(b.x).sum().item<double>());
    b.model->train();
  }
  if (what == Act::kRate) b.optimizer.param_groups()[0].options().set_lr(0.05 + 0.01 * static_cast<double>(b.step % 5));
  if (what == Act::kFreeze) b.model->first->weight.set_requires_grad(false);
  if (what == Act::kThaw) b.model->first->weight.set_requires_grad(true);
  at::Tensor x = b.x, y = b.y;
  if (what == Act::kSmallBatch) x = x.narrow(0, 0, 5), y = y.narrow(0, 0, 5);
  if (what == Act::kExpanded) x = x.narrow(0, 0, 1).expand_as(x);
  at::Tensor late;
  auto window = b.accelerator.accumulate(b.model);
  if (what == Act::kFirstPass || what == Act::kResetPass || what == Act::kFreezePhase) {
    if (what == Act::kFreezePhase) b.model->second->weight.set_requires_grad(false);
    b.accelerator.backward(b.model(x * 2).pow(2).mean() * 1e-2);
    if (what == Act::kFreezePhase) b.model->second->weight.set_requires_grad(true);
    if (what == Act::kResetPass) b.optimizer.zero_grad();
  }
  auto logits = b.model(x);
  if (what == Act::kSameInput) kept.tensors.push_back(y.contiguous());
  if (what == Act::kHook) logits.register_hook([](const at::Tensor& gradient) { return gradient * 0.5; });
  if (what == Act::kRetainGrad) logits.retain_grad();
  if (what == Act::kForm) b.log.push_back(static_cast<double>(logits.detach().clone().t_().size(0)));
  if (what == Act::kPassAfterStep) late = (b.model->third->bias * 2).sum();
  if (what == Act::kBuffer) {
    logits = logits * kept.buffer;
    kept.buffer = kept.buffer * 0.9 + logits.detach().mean(0) * 0.1;
  }
  if (what == Act::kSecondForward) logits = logits + b.model(x);
  if (what == Act::kInPlace) logits.mul_(0.5);
  auto loss = cross_entropy(logits, y);
  if (what == Act::kTerm) loss = loss + logits.pow(2).mean() * 1e-2;
  if (what == Act::kAddedUp) {
    auto total = torch::zeros({}, torch::device(capturing::device()));
    total += loss;
    loss = total;
  }
  if (what == Act::kRetained) b.accelerator.backward(loss * 0.5, {.retain_graph = true});
  if (what == Act::kReadBefore) b.log.push_back(loss.item<double>());
  b.accelerator.backward(loss);
  if (what == Act::kReadBetween) b.log.push_back(loss.item<double>());
  if (what == Act::kGiveUp) return;
  if (what == Act::kRetainGrad) b.log.push_back(logits.grad().abs().sum().item<double>());
  if (what == Act::kWriteInput) x.view({-1}).mul_(0.5);
  if (what == Act::kWriteInput) kept.tensors.push_back(x);
  if (what == Act::kReplacedBuffer) kept.buffer.set_data(kept.buffer * 0.9 + logits.detach().mean(0) * 0.1);
  if (what == Act::kHalveGradients) {
    for (const auto& parameter : b.model->parameters()) {
      if (parameter.grad().defined()) parameter.mutable_grad() = parameter.grad() * 0.5;
    }
  }
  if (what == Act::kInferenceMode) {
    const c10::InferenceMode inference;
    kept.tensors.push_back(b.model->third(logits.detach().matmul(b.model->third->weight)).sum());
  }
  if (what == Act::kThrow) throw std::runtime_error("the user's own");
  b.optimizer.step();
  if (what == Act::kSumOfEpoch) kept.sum += loss.detach();
  if (what == Act::kKeepLoss) kept.tensors.push_back(loss.detach());
  if (what == Act::kKeepLogits) kept.tensors.push_back(logits.select(0, 1));
  if (what == Act::kReadAfter) b.log.push_back(logits.sum().item<double>());
  if (late.defined()) b.accelerator.backward(late);
  if (what == Act::kNoZero) return;
  b.optimizer.zero_grad({.set_to_none = what != Act::kZeroInPlace});
}

TEST_F(StepCapture, WhateverStepsDoTheNumbersAreTheSame) {
  int64_t replayed = 0, fallbacks = 0;
  const bool held = rc::check("captured loops have the numbers of usual ones", [&] {
    const Loop loop = *loops();
    Kept kept;
    const auto body = [&](Body& b) {
      try {
        act(b, loop.acts[b.step], kept);
      } catch (const std::runtime_error& error) {
        RC_ASSERT(std::string(error.what()) == "the user's own");
        b.optimizer.zero_grad();
      }
      if (b.step + 1 != loop.variant.steps) return;
      for (const at::Tensor& tensor : kept.tensors) b.log.push_back(tensor.sum().item<double>());
    };
    std::string acts;
    for (const Act one : loop.acts) acts += std::to_string(static_cast<int>(one)) + " ";
    RC_LOG() << "dropout " << loop.variant.dropout << ", norm " << loop.variant.norm << ", accumulate "
             << loop.variant.accumulate << ", acts " << acts << "\n";
    const Result usual = train(loop.variant, false, body), captured = train(loop.variant, true, body);
    RC_LOG() << "last fallback: " << captured.report.last_fallback << "\n";
    RC_ASSERT(usual.log == captured.log);
    RC_ASSERT(usual.parameters.size() == captured.parameters.size());
    for (size_t i = 0; i < usual.parameters.size(); ++i) RC_ASSERT(usual.parameters[i].equal(captured.parameters[i]));
    replayed += captured.report.replayed;
    fallbacks += captured.report.fallbacks;
  });
  EXPECT_TRUE(held);
  EXPECT_GT(replayed, 100) << "the property would hold of loops that are never captured";
  EXPECT_GT(fallbacks, 10);
}

}  // namespace
