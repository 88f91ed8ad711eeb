// What a loop may do behind the back of a captured step: the numbers are those of the loop without `.cuda_graph`.
#include <ATen/autocast_mode.h>

#include <limits>

#include "tests/unit/captured_loop.h"

namespace {

using namespace captured_loop;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// In step `at` something is called that was not captured, which has everything before it run as usual.
void deviate(const Body& b, int64_t at) {
  if (b.step == at) static_cast<void>(at::ones({3}, torch::device(capturing::device())));
}

TEST_F(StepCapture, ALossThatIsAddedUpInPlaceIsDifferentiable) {
  expect_all_replayed(expect_same({.dropout = 0.1}, with({.loss = [](Body&, const at::Tensor& logits, at::Tensor loss) {
                                    auto total = torch::zeros({}, torch::device(capturing::device()));
                                    total += loss;
                                    total += logits.pow(2).mean();
                                    return total;
                                  }})));
  for (const int64_t at : {4, 7}) {
    const auto report = expect_same({}, with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                      auto terms = torch::zeros({2}, torch::device(capturing::device()));
                                      terms.select(0, 0).copy_(loss);
                                      terms.select(0, 1).add_(logits.pow(2).mean());
                                      b.log.push_back(static_cast<double>(terms.requires_grad()));
                                      deviate(b, at);
                                      return terms.sum();
                                    }}));
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, ConversionsThatChangeNothingGiveTheInputItself) {
  std::vector<at::Tensor> kept;
  expect_all_replayed(expect_same({}, [&](Body& b) {
    if (b.step == 0) kept.clear();
    auto window = b.accelerator.accumulate(b.model);
    auto logits = b.model(b.x);
    const auto labels = b.y.to(torch::kLong).contiguous();
    auto loss = cross_entropy(logits, labels) + b.x.contiguous().mean() * logits.mean();
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
    kept.push_back(labels);
    if (b.step != 23) return;
    for (const auto& one : kept) b.log.push_back(one.sum().item<double>());
  }));
}

TEST_F(StepCapture, AResultWhoseFormChangesInPlaceHasThatForm) {
  const auto sizes = [](Body& b, const at::Tensor& tensor) {
    for (const int64_t size : tensor.sizes()) b.log.push_back(static_cast<double>(size));
    for (const int64_t stride : tensor.strides()) b.log.push_back(static_cast<double>(stride));
    b.log.push_back(static_cast<double>(tensor.requires_grad()));
  };
  const auto transposed = with({.after_backward = [&](Body& b, const at::Tensor& logits, const at::Tensor&) {
    auto own = logits.detach().clone();
    own.t_();
    own.unsqueeze_(0);
    sizes(b, own);
  }});
  expect_same({}, transposed);
  const auto detached = with({.after_step = [&](Body& b, const at::Tensor& logits, const at::Tensor&) {
    auto own = logits * 2;
    own.detach_();
    sizes(b, own);
  }});
  expect_same({}, detached);
}

TEST_F(StepCapture, WhatIsWrittenIntoAnInputThroughAViewIsThere) {
  const auto report = expect_same({}, [](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(loss);
    b.x.view({-1}).mul_(0.5);
    b.optimizer.step();
    b.optimizer.zero_grad();
    b.log.push_back(b.x.sum().item<double>());
  });
  expect_all_replayed(report);
}

/// What LibTorch keeps for a graph is made when it is captured, and must not be of that mode.
TEST_F(StepCapture, AStepThatBeginsInInferenceMode) {
  Body* now = nullptr;
  std::function<void()> step;
  expect_all_replayed(expect_same({.dropout = 0.2, .window = false}, [&](Body& body) {
    now = &body;
    if (body.step == 0) {
      step = body.accelerator.step([&now] {
        Body& b = *now;
        {
          const c10::InferenceMode inference;
          b.model(b.x);
        }
        auto loss = cross_entropy(b.model(b.x), b.y);
        b.accelerator.backward(loss);
        b.optimizer.step();
        b.optimizer.zero_grad();
      });
    }
    step();
  }));
}

TEST_F(StepCapture, InputsThatAreExpandedOrOverlap) {
  const auto expanded = [](Body& b) {
    const auto x = b.x.narrow(0, 0, 1).expand({8, 12}), rows = b.x.view({-1}).unfold(0, 12, 4).narrow(0, 0, 8);
    auto window = b.accelerator.accumulate(b.model);
    auto loss = cross_entropy(b.model(x) + b.model(rows), b.y);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
  };
  expect_all_replayed(expect_same({}, expanded));
}

TEST_F(StepCapture, HooksOnTheResultsOfOneStepAreCalled) {
  for (const int64_t at : {4, 12}) {
    const auto hooked = expect_same({}, with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                      if (b.step == at) {
                                        logits.register_hook([](const at::Tensor& gradient) { return gradient * 3; });
                                      }
                                      return loss;
                                    }}));
    EXPECT_GT(hooked.replayed, 8);
    const auto retained = expect_same({}, with({.loss =
                                                    [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                                      if (b.step == at) logits.retain_grad();
                                                      return loss;
                                                    },
                                                .after_step =
                                                    [at](Body& b, const at::Tensor& logits, const at::Tensor&) {
                                                      if (b.step == at)
                                                        b.log.push_back(logits.grad().abs().sum().item<double>());
                                                    }}));
    EXPECT_GT(retained.replayed, 8);
  }
}

/// Two phases over one net, as adversarial training has them; `between` is what comes after the first.
std::function<void(Body&)> phases(const std::function<void(Body&)>& between, int64_t deviates) {
  return [=](Body& b) {
    auto window = b.accelerator.accumulate(b.model);
    auto first = b.model(b.x).pow(2).mean();
    b.accelerator.backward(first);
    const auto gradient = b.model->first->weight.grad();
    between(b);
    auto second = cross_entropy(b.model(b.x), b.y);
    b.accelerator.backward(second);
    deviate(b, deviates);
    b.optimizer.step();
    b.optimizer.zero_grad();
    if (gradient.defined()) b.log.push_back(gradient.sum().item<double>());
  };
}

TEST_F(StepCapture, GradientsThatAreResetBetweenTwoPassesAreNotAddedUp) {
  for (const int64_t at : {-1, 4, 12}) {
    const auto reset = phases([](Body& b) { b.optimizer.zero_grad(); }, at);
    EXPECT_GT(expect_same({.dropout = 0.1}, reset).replayed, 8);
    const auto zeroed = phases([](Body& b) { b.optimizer.zero_grad({.set_to_none = false}); }, at);
    EXPECT_GT(expect_same({.dropout = 0.1}, zeroed).replayed, 8);
    const auto halved = phases(
        [](Body& b) {
          for (const auto& parameter : b.model->parameters()) parameter.mutable_grad() = parameter.grad() * 0.5;
        },
        at);
    EXPECT_GT(expect_same({.dropout = 0.1}, halved).replayed, 8);
  }
}

TEST_F(StepCapture, ALayerThatIsFrozenForOnePhase) {
  const auto freeze = [](Body& b, bool trains) { b.model->first->weight.set_requires_grad(trains); };
  for (const int64_t at : {-1, 4, 12}) {
    const auto report = expect_same({.steps = 30}, [&](Body& b) {
      freeze(b, false);
      phases([&](Body& one) { freeze(one, true); }, at)(b);
    });
    EXPECT_GT(report.replayed, 8);
  }
  const auto late = expect_same({.steps = 30}, [&](Body& b) {
    freeze(b, true);
    phases([&](Body& one) { freeze(one, one.step != 12); }, -1)(b);
    freeze(b, true);
  });
  EXPECT_GT(late.replayed, 8);
}

TEST_F(StepCapture, AReadBetweenAPassAndTheOneOfAnEarlierForwardPass) {
  for (const int64_t at : {-1, 4, 12}) {
    expect_same({}, [at](Body& b) {
      auto window = b.accelerator.accumulate(b.model);
      auto first = b.model(b.x).pow(2).mean();
      auto other = b.model(b.x * 2);
      b.accelerator.backward(first);
      b.log.push_back(first.item<double>());
      deviate(b, at);
      auto second = cross_entropy(other, b.y);
      b.accelerator.backward(second);
      b.optimizer.step();
      b.optimizer.zero_grad();
    });
    expect_same({}, [at](Body& b) {
      auto window = b.accelerator.accumulate(b.model);
      auto logits = b.model(b.x);
      auto first = logits.pow(2).mean();
      auto second = cross_entropy(logits, b.y);
      b.accelerator.backward(first, {.retain_graph = true});
      b.log.push_back(first.item<double>());
      deviate(b, at);
      b.accelerator.backward(second);
      b.optimizer.step();
      b.optimizer.zero_grad();
    });
  }
}

TEST_F(StepCapture, ALossWhosePassComesAfterTheStep) {
  for (const int64_t at : {-1, 12}) {
    expect_same({.steps = 40}, [at](Body& b) {
      auto first = b.model(b.x).pow(2).mean();
      at::Tensor second;
      if (at < 0 || at == b.step) second = (b.model->third->bias * 3).sum() + (b.model->third->weight * 2).sum();
      b.accelerator.backward(first);
      b.optimizer.step();
      b.optimizer.zero_grad();
      if (!second.defined()) return;
      b.accelerator.backward(second);
      b.log.push_back(b.model->third->bias.grad().sum().item<double>());
      b.optimizer.zero_grad();
    });
  }
}

TEST_F(StepCapture, BuffersThatTheModelMakesAnewInEveryStep) {
  at::Tensor mean, set, seen;
  const auto assigned = with({.before =
                                  [&](Body& b) {
                                    if (b.step == 0) mean = torch::zeros({4}, torch::device(capturing::device()));
                                  },
                              .loss =
                                  [&](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                    loss = loss + (logits - mean).pow(2).mean();
                                    mean = mean * 0.9 + logits.detach().mean(0) * 0.1;
                                    if (b.step == 23) seen = mean;
                                    return loss;
                                  },
                              .after_step =
                                  [&](Body& b, const at::Tensor&, const at::Tensor&) {
                                    if (b.step == 23) b.log.push_back(seen.sum().item<double>());
                                  }});
  EXPECT_GT(expect_same({}, assigned).replayed, 8);
  // Its memory becomes that of a result, past the operators.
  const auto replaced = with({.before =
                                  [&](Body& b) {
                                    if (b.step == 0) set = torch::zeros({4}, torch::device(capturing::device()));
                                  },
                              .loss =
                                  [&](Body&, const at::Tensor& logits, at::Tensor loss) {
                                    loss = loss + (logits - set).pow(2).mean();
                                    set.set_data(set * 0.9 + logits.detach().mean(0) * 0.1);
                                    return loss;
                                  },
                              .after_step =
                                  [&](Body& b, const at::Tensor&, const at::Tensor&) {
                                    if (b.step == 23) b.log.push_back(set.sum().item<double>());
                                  }});
  EXPECT_THAT(expect_same({}, replaced).not_captured, SizeIs(1));
  const auto twice = with({.before =
                               [&](Body& b) {
                                 if (b.step == 0) set = torch::zeros({4}, torch::device(capturing::device()));
                               },
                           .loss =
                               [&](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                 loss = loss + (logits - set).pow(2).mean();
                                 set.set_data(b.x.narrow(0, 0, 1).narrow(1, 0, 4).clone().view({4}));
                                 return loss + (logits - set).pow(2).mean();
                               }});
  EXPECT_THAT(expect_same({}, twice).not_captured, SizeIs(1));
}

TEST_F(StepCapture, StatisticsThatAnOperatorChangesUnannounced) {
  expect_same({}, [&](Body& b) {
    const auto mean = torch::ones({4}).to(capturing::device()), variance = mean.clone();
    auto window = b.accelerator.accumulate(b.model);
    auto logits = b.model(b.x);
    logits = at::batch_norm(logits, {}, {}, mean, variance, /*training=*/true, 0.1, 1e-5, false);
    auto loss = cross_entropy(logits, b.y);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
    b.log.push_back(mean.sum().item<double>());
  });
}

TEST_F(StepCapture, AnInputThatSharesMemoryWithWhatTheStepWrites) {
  for (const int64_t at : {4, 12}) {
    const auto report = expect_same({}, [at](Body& b) {
      const auto other = b.step == at ? b.model->third->bias.detach() : torch::ones({4}).to(capturing::device());
      auto window = b.accelerator.accumulate(b.model);
      auto loss = cross_entropy(b.model(b.x), b.y);
      b.accelerator.backward(loss);
      b.optimizer.step();
      b.optimizer.zero_grad();
      const auto changed = other * other;
      b.log.push_back(changed.sum().item<double>());
    });
    EXPECT_EQ(report.fallbacks, 1);
    EXPECT_THAT(report.last_fallback, HasSubstr("shares memory"));
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, AWrittenInputThatSharesMemoryWithWhatTheStepReads) {
  for (const int64_t at : {4, 12}) {
    at::Tensor fixed;
    const auto report = expect_same({}, [&](Body& b) {
      if (b.step == 0) fixed = torch::ones({}).to(capturing::device()).clone();
      auto sum = b.step == at ? fixed.detach() : torch::zeros({}).to(capturing::device());
      auto window = b.accelerator.accumulate(b.model);
      auto loss = cross_entropy(b.model(b.x), b.y);
      b.accelerator.backward(loss);
      b.optimizer.step();
      b.optimizer.zero_grad();
      sum += loss.detach();
      const auto changed = fixed * 2;
      b.log.push_back(changed.item<double>());
      b.log.push_back(sum.item<double>());
    });
    EXPECT_EQ(report.fallbacks, 1);
    EXPECT_THAT(report.last_fallback, HasSubstr("shares memory"));
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, WrittenTensorsThatShareMemoryAndAreNewAtTimes) {
  for (const int64_t every : {1, 15}) {
    at::Tensor sum, same;
    expect_same({.steps = 60}, [&](Body& b) {
      if (b.step % every == 0) {
        sum = torch::zeros({}).to(capturing::device());
        same = sum.detach();
      }
      auto window = b.accelerator.accumulate(b.model);
      auto loss = cross_entropy(b.model(b.x), b.y);
      b.accelerator.backward(loss);
      b.optimizer.step();
      b.optimizer.zero_grad();
      sum += loss.detach();
      const auto twice = same * 2;
      b.log.push_back(twice.item<double>());
    });
  }
}

/// LibTorch compares versions: those of weights, and of what else a step writes.
TEST_F(StepCapture, AGraphOverWhatAStepHasWrittenIsAnError) {
  for (const bool captured : {false, true}) {
    at::Tensor sum;
    const auto result = train({}, captured, [&](Body& b) {
      if (b.step == 0) sum = torch::zeros({}).to(capturing::device());
      std::vector<at::Tensor> before;
      if (b.step == 12) before = {b.model->forward(b.x).sum(), (b.model->third->bias * sum).sum()};
      with({.after_step = [&](Body&, const at::Tensor&, const at::Tensor& loss) { sum += loss.detach(); }})(b);
      for (const at::Tensor& loss : before) EXPECT_THROW(loss.backward(), c10::Error);
    });
    EXPECT_EQ(result.report.replayed > 15, captured);
  }
}

TEST_F(StepCapture, AResultThatOneStepKeepsAndTheCapturedOneDidNot) {
  at::Tensor kept;
  const auto report = expect_same({}, with({.loss =
                                                [&](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                                  const auto squares = logits.pow(2);
                                                  if (b.step == 12) kept = squares.detach();
                                                  return loss + squares.mean();
                                                },
                                            .after_step =
                                                [&](Body& b, const at::Tensor&, const at::Tensor&) {
                                                  if (b.step == 20) b.log.push_back(kept.sum().item<double>());
                                                }}));
  EXPECT_GT(report.replayed, 8);
  at::Tensor squares;
  const auto same_operators = expect_same({}, with({.loss =
                                                        [&](Body& b, const at::Tensor& logits, at::Tensor loss) {
                                                          const auto now = logits.pow(2);
                                                          if (b.step == 12) squares = now;
                                                          return loss + now.mean();
                                                        },
                                                    .after_step =
                                                        [&](Body& b, const at::Tensor&, const at::Tensor&) {
                                                          if (b.step == 20)
                                                            b.log.push_back(squares.sum().item<double>());
                                                        }}));
  EXPECT_THAT(same_operators.last_fallback, testing::AnyOf(HasSubstr("is kept"), HasSubstr("aten::sum")));
}

TEST_F(StepCapture, SettingsOfLibTorchThatChangeAreSeen) {
  const bool before = at::globalContext().deterministicAlgorithms();
  const auto report = expect_same(
      {.steps = 30},
      with({.before = [](Body& b) { at::globalContext().setDeterministicAlgorithms(b.step >= 12, false); }}));
  at::globalContext().setDeterministicAlgorithms(before, false);
  EXPECT_THAT(report.last_fallback, HasSubstr("settings"));
  EXPECT_EQ(report.captured, 2);
  EXPECT_GT(report.replayed, 15);
}

TEST_F(StepCapture, TensorsWithoutElementsOrDimensionsAndOfOtherTypes) {
  std::vector<at::Tensor> kept;
  const auto report = expect_same({.dropout = 0.1}, [&](Body& b) {
    if (b.step == 0) kept.clear();
    const auto empty = torch::zeros({0, 4}).to(capturing::device());
    const auto scale = torch::full({}, 0.5 + 0.1 * static_cast<double>(b.step % 3)).to(capturing::device()).clone();
    auto window = b.accelerator.accumulate(b.model);
    auto logits = b.model(b.x);
    auto loss = cross_entropy(at::cat({logits, empty}), b.y) * scale;
    const auto right = logits.argmax(1).eq(b.y), none = logits.narrow(0, 0, 0);
    const auto spectrum = at::complex(logits.detach(), logits.detach() * 2);
    b.accelerator.backward(loss);
    b.optimizer.step();
    b.optimizer.zero_grad();
    kept.push_back(right);
    kept.push_back(right.sum());
    kept.push_back(none.detach());
    kept.push_back(spectrum.abs());
    if (b.step != 23) return;
    for (const auto& one : kept) b.log.push_back(one.sum().to(torch::kDouble).item<double>());
  });
  EXPECT_GT(report.replayed, 8);
}

TEST_F(StepCapture, InferenceModeInTheMiddleOfAStep) {
  for (const int64_t at : {-1, 4, 12}) {
    std::vector<at::Tensor> kept;
    const auto report = expect_same({}, with({.after_backward = [&](Body& b, const at::Tensor&, const at::Tensor&) {
                                      if (b.step == 0) kept.clear();
                                      {
                                        const c10::InferenceMode inference;
                                        kept.push_back(b.model->forward(b.x).argmax(1).sum());
                                      }
                                      deviate(b, at);
                                      if (b.step != 23) return;
                                      for (const auto& one : kept) b.log.push_back(one.item<double>());
                                    }}));
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, OperatorsInAnotherModeAreOthers) {
  for (const int64_t at : {4, 12}) {
    const auto without_graph = with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
      const at::AutoGradMode grad(b.step != at);
      const auto size = logits.pow(2).mean();
      const at::AutoGradMode again(true);
      return loss + size;
    }});
    EXPECT_EQ(expect_same({}, without_graph).fallbacks, 1);
    const auto precise = with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
      const auto autocast = b.accelerator.autocast({.enabled = b.step != at});
      return loss + logits.matmul(logits.t()).mean();
    }});
    EXPECT_EQ(expect_same({.mixed_precision = "bf16"}, precise).fallbacks, 1);
    const auto other_dtype = with({.loss = [at](Body& b, const at::Tensor& logits, at::Tensor loss) {
      const auto autocast = b.accelerator.autocast({.enabled = true});
      const auto type = capturing::device().type();
      const auto before = at::autocast::get_autocast_dtype(type);
      at::autocast::set_autocast_dtype(type, b.step == at ? torch::kHalf : torch::kBFloat16);
      const auto size = logits.matmul(logits.t()).mean();
      at::autocast::set_autocast_dtype(type, before);
      return loss + size;
    }});
    EXPECT_EQ(expect_same({.mixed_precision = "bf16"}, other_dtype).fallbacks, 1);
  }
}

TEST_F(StepCapture, WhatWasCalledBeforeInferenceModeHasItsGraph) {
  for (const int64_t at : {4, 12}) {
    const auto report = expect_same({}, with({.loss = [at](Body& b, const at::Tensor&, at::Tensor loss) {
                                      const c10::InferenceMode inference;
                                      deviate(b, at);
                                      return loss;
                                    }}));
    EXPECT_EQ(report.fallbacks, 1);
    EXPECT_GT(report.replayed, 8);
  }
}

TEST_F(StepCapture, GradientsOfEmbeddingsThatAreSparseAreNotCaptured) {
  const auto run = [](bool captured) {
    AcceleratorOptions options = capturing::options();
    if (captured) options.cuda_graph = CudaGraph{};
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    Accelerator accelerator(options);
    torch::manual_seed(3);
    torch::nn::Sequential net(torch::nn::Embedding(torch::nn::EmbeddingOptions(20, 4).sparse(true)),
                              torch::nn::Linear(4, 4));
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto [model, optimizer] = accelerator.prepare(net, sgd);
    for (int i = 0; i < 10; ++i) {
      const auto tokens = torch::randint(0, 20, {6}, torch::kLong).to(capturing::device());
      accelerator.backward(model(tokens).pow(2).mean());
      optimizer.step();
      optimizer.zero_grad();
    }
    return std::pair(net->parameters()[0].detach().clone(), accelerator.cuda_graph_report());
  };
  const auto [usual, none] = run(false);
  const auto [captured, report] = run(true);
  EXPECT_TRUE(usual.equal(captured));
  EXPECT_EQ(report.replayed, 0);
  ASSERT_THAT(report.not_captured, SizeIs(1));
  EXPECT_THAT(report.not_captured[0], HasSubstr("sparse"));
}

}  // namespace
