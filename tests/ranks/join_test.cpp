// join_uneven_inputs as a user meets it: loaders, buffers, several models, and what goes wrong.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::CommError;
using accelerate::DataLoaderConfiguration;
using accelerate::Ddp;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Rank;

accelerate::AcceleratorOptions uneven(Ddp options = {}) {
  return {.dataloader_config = DataLoaderConfiguration{.even_batches = false}, .strategy = std::move(options)};
}

/// The loop of a user.
void run_joined(Accelerator& accelerator, const std::vector<accelerate::Joinable>& models,
                accelerate::JoinOptions options, const std::function<void()>& loop) {
  auto join = accelerator.join_uneven_inputs(models, options);
  loop();
  join.finish();
}

// The original's test_distributed_data_loop.py.

auto loader_of(Accelerator& accelerator, int64_t samples) {
  const at::Tensor x = torch::arange(samples, at::kFloat).view({samples, 1});
  return accelerator.prepare(accelerate::DataLoader(accelerate::TensorDataset(x), {.batch_size = 1}));
}

TEST(Join, ThreeSamplesOnTwoProcesses) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(torch::nn::Linear(1, 1));
    auto loader = loader_of(accelerator, 3);
    std::vector<int64_t> seen;
    run_joined(accelerator, {model}, {}, [&] {
      int64_t batch = 0;
      for (auto& [x] : loader) {
        accelerator.backward(model(x).sum());
        seen.push_back(batch++);
      }
    });
    EXPECT_EQ(seen, rank.rank() == 0 ? (std::vector<int64_t>{0, 1}) : (std::vector<int64_t>{0}));
  });
}

TEST(Join, EvenBatchesAreOverriddenAndRestored) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(torch::nn::Linear(1, 1));
    auto train = loader_of(accelerator, 3);
    auto valid = loader_of(accelerator, 5);
    const auto sizes = [&] { return std::vector<int64_t>{train.size(), valid.size()}; };
    EXPECT_EQ(sizes(), (std::vector<int64_t>{2, 3}));
    run_joined(accelerator, {model}, {.even_batches = false}, [&] {
      EXPECT_EQ(sizes(), rank.rank() == 0 ? (std::vector<int64_t>{2, 3}) : (std::vector<int64_t>{1, 2}));
      for (auto& [x] : train) accelerator.backward(model(x).sum());
    });
    EXPECT_EQ(sizes(), (std::vector<int64_t>{2, 3}));
    const auto fails = [&] {
      run_joined(accelerator, {model}, {.even_batches = false}, [] { throw std::runtime_error("mine"); });
    };
    EXPECT_THROW(fails(), std::runtime_error);
    EXPECT_EQ(sizes(), (std::vector<int64_t>{2, 3}));
  });
}

TEST(Join, EvenBatchesRunTheBodyAlone) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(torch::nn::Linear(1, 1));
    auto loader = loader_of(accelerator, 3);
    int64_t batches = 0;
    run_joined(accelerator, {model}, {.even_batches = true}, [&] {
      for (auto& [x] : loader) {
        accelerator.backward(model(x).sum());
        ++batches;
      }
    });
    EXPECT_EQ(batches, 2);
  });
}

TEST(Join, OneProcessRunsTheBodyAlone) {
  Accelerator accelerator({.cpu = true});
  auto model = accelerator.prepare(torch::nn::Linear(1, 1));
  bool ran = false;
  run_joined(accelerator, {model}, {}, [&] { ran = true; });
  EXPECT_TRUE(ran);
}

struct NormedImpl : torch::nn::Module {
  NormedImpl() {
    norm = register_module("norm", torch::nn::BatchNorm1d(3));
    out = register_module("out", torch::nn::Linear(3, 1));
    ddp::fill(*this, 1);
  }
  at::Tensor forward(const at::Tensor& x) { return out(norm(x)); }
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Linear out{nullptr};
};
TORCH_MODULE(Normed);

/// Buffers are those of the last rank that has data, and in the end of the last one that had some.
TEST(Join, BuffersFollowTheRanksThatHaveData) {
  for (const int64_t longest : {0, 1, 2}) {
    const auto states = ddp::on_ranks<ddp::Tensors>(3, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(uneven()));
      auto model = accelerator.prepare(Normed());
      run_joined(accelerator, {model}, {}, [&] {
        const int64_t batches = rank.rank() == longest ? 4 : rank.rank();
        for (int64_t batch = 0; batch < batches; ++batch) {
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        }
      });
      ddp::Tensors state = ddp::values(*model);
      for (const at::Tensor& buffer : model->buffers()) state.push_back(buffer.clone());
      return state;
    });
    EXPECT_TRUE(ddp::equal(states[0], states[1]) && ddp::equal(states[0], states[2]));
    EXPECT_EQ(states[0].back().item<int64_t>(), 4) << "num_batches_tracked of rank " << longest;
  }
}

/// A generator and a critic take turns; an embedding has sparse gradients.
TEST(Join, SeveralModelsAndSparseGradients) {
  const auto states = ddp::on_ranks<ddp::Tensors>(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven({.bucket_cap_mb = 0.0001})));
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(5, 3));
    ddp::fill(*words, 4);
    torch::optim::SGD one(words->parameters(), 0.1);
    ddp::Mlp net(2);
    torch::optim::SGD two(net->parameters(), 0.1);
    auto model = accelerator.prepare(net);
    auto table = accelerator.prepare(words);
    auto first = accelerator.prepare(two);
    auto second = accelerator.prepare(one);
    run_joined(accelerator, {table, model}, {}, [&] {
      for (int64_t batch = 0; batch < 1 + 3 * rank.rank(); ++batch) {
        accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        first.step();
        first.zero_grad();
        const at::Tensor x = table(torch::tensor({batch % 5, int64_t{2}}));
        accelerator.backward(ddp::mean_square(model(x)));
        first.step();
        second.step();
        first.zero_grad();
        second.zero_grad();
      }
    });
    ddp::Tensors state = ddp::values(*model);
    state.push_back(table->weight.detach().clone());
    return state;
  });
  EXPECT_TRUE(ddp::equal(states[0], states[1]));
  ddp::Mlp untrained(2);
  EXPECT_GT(ddp::distance({states[0][0]}, {ddp::values(*untrained)[0]}), 1e-3);
}

/// The others learn of it at their next exchange, or at the end of their data, and can go on together.
TEST(Join, AnExceptionOnOneRankEndsTheLoopOnAll) {
  for (const int64_t at_batch : {0, 1, 3}) {
    for (const int64_t rounds : {1, 3}) {
      ddp::on_ranks(3, [&](const Rank& rank) {
        Accelerator accelerator(rank.options(uneven({.bucket_cap_mb = 0.0001, .comm_hook = "fp16"})));
        auto model = accelerator.prepare(ddp::Mlp());
        const auto loop = [&] {
          for (int64_t batch = 0; batch < 2 * (1 + rank.rank()); ++batch) {
            if (rank.rank() == 1 && batch == at_batch) throw std::runtime_error("mine");
            accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
          }
        };
        for (int64_t round = 0; round < rounds; ++round) {
          const auto joined = ddp::once([&] { run_joined(accelerator, {model}, {}, loop); });
          if (rank.rank() == 1) {
            EXPECT_THAT(joined, testing::ThrowsMessage<std::runtime_error>("mine"));
          } else {
            EXPECT_THAT(joined, ThrowsError<CommError>({.place = "join_uneven_inputs",
                                                        .what = "left the loop with an exception",
                                                        .got = "rank 1",
                                                        .expected = "the end of its data",
                                                        .remedy = "load a checkpoint"}));
          }
        }
        accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), 0))));
        const at::Tensor own = model->out->weight.grad();
        EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own));
      });
    }
  }
}

/// An error that the ranks with data have in common reaches the ones without.
TEST(Join, AParameterWithoutAGradientIsAnErrorOnRanksWithoutDataToo) {
  ddp::on_ranks(3, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::TwoHeads());
    const auto joined = ddp::once([&] {
      run_joined(accelerator, {model}, {}, [&] {
        for (int64_t batch = 0; batch < 2 * rank.rank(); ++batch) {
          const bool both = rank.rank() != 2 || batch < 3;
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch), true, both)));
        }
      });
    });
    EXPECT_THAT(joined, ThrowsError<UsageError>({.place = "backward",
                                                 .what = "cannot be averaged",
                                                 .got = "\"second.weight\", \"second.bias\" on rank 2",
                                                 .expected = "every process",
                                                 .remedy = "find_unused_parameters"}));
  });
}

TEST(Join, AModelThatIsNotInTheListIsAnError) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp(1));
    auto other = accelerator.prepare(ddp::TwoHeads(2));
    const auto joined = ddp::once([&] {
      run_joined(accelerator, {model}, {}, [&] {
        for (int64_t batch = 0; batch < 1 + rank.rank(); ++batch) {
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        }
        if (rank.rank() == 1) accelerator.backward(ddp::mean_square(other(ddp::inputs(1, 0), true, true)));
      });
    });
    if (rank.rank() == 1) {
      EXPECT_THAT(joined, ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                                   .what = "is not in the list",
                                                   .got = "TwoHeadsImpl",
                                                   .expected = "every model",
                                                   .remedy = "Add it"}));
    } else {
      EXPECT_THROW(joined(), CommError);
    }
  });
}

TEST(Join, RanksThatTrainDifferentModelsAreTold) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto one = accelerator.prepare(ddp::Mlp(1));
    auto two = accelerator.prepare(ddp::TwoHeads(2));
    const auto joined = ddp::once([&] {
      run_joined(accelerator, {one, two}, {}, [&] {
        if (rank.rank() == 0) accelerator.backward(ddp::mean_square(one(ddp::inputs(0, 0))));
        if (rank.rank() == 1) accelerator.backward(ddp::mean_square(two(ddp::inputs(1, 0), true, true)));
      });
    });
    EXPECT_THAT(joined, ThrowsError<CommError>({.place = "join_uneven_inputs",
                                                .what = "exchange different things",
                                                .got = "x Double of ddp::",
                                                .expected = "same models",
                                                .remedy = "as many backward passes"}));
  });
}

TEST(Join, FreezingInsideIsAnErrorOnAll) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp());
    const auto joined = ddp::once([&] {
      run_joined(accelerator, {model}, {}, [&] {
        for (int64_t batch = 0; batch < 1 + rank.rank(); ++batch) {
          if (batch == 1) model->hidden->weight.set_requires_grad(false);
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        }
      });
    });
    if (rank.rank() == 1) {
      EXPECT_THAT(joined, ThrowsError<UsageError>({.place = "backward",
                                                   .what = "inside join_uneven_inputs",
                                                   .got = "other trainable parameters",
                                                   .expected = "the same ones",
                                                   .remedy = "between two loops"}));
    } else {
      EXPECT_THROW(joined(), CommError);
    }
  });
}

TEST(Join, AStaticGraphHasToBeRecordedEverywhere) {
  for (const int64_t first : {1, 0}) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(uneven({.static_graph = true})));
      auto model = accelerator.prepare(ddp::Mlp());
      const auto joined = ddp::once([&] {
        run_joined(accelerator, {model}, {}, [&] {
          for (int64_t batch = 0; batch < (rank.rank() == 0 ? first : 3); ++batch) {
            accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
          }
        });
      });
      if (first == 1) return joined();
      if (rank.rank() == 0) {
        EXPECT_THAT(joined, ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                                     .what = "no data before the static graph",
                                                     .got = "no backward pass",
                                                     .expected = "at least one",
                                                     .remedy = ".static_graph"}));
      } else {
        EXPECT_THROW(joined(), CommError);
      }
    });
  }
}

TEST(Join, CallsThatCannotBeMeantAreErrors) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp());
    EXPECT_THAT([&] { run_joined(accelerator, {}, {}, [] {}); },
                ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                         .what = "nothing to join",
                                         .got = "no model",
                                         .expected = "the models",
                                         .remedy = "accelerator.join_uneven_inputs({model})"}));
    const auto differ = ddp::once([&] { run_joined(accelerator, {model}, {.even_batches = rank.rank() == 0}, [] {}); });
    EXPECT_THAT(differ, ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                                 .what = "join different things",
                                                 .got = "uneven batches and models 0 on process 1",
                                                 .expected = "even batches and models 0, as on process 0",
                                                 .remedy = "on every process"}));
    Accelerator alone({.world = accelerate::World{}});
    auto foreign = alone.prepare(ddp::Mlp());
    EXPECT_THAT([&] { run_joined(accelerator, {foreign}, {}, [] {}); },
                ThrowsError<UsageError>({.place = "join_uneven_inputs",
                                         .what = "prepared by another Accelerator",
                                         .got = "that Accelerator's handle",
                                         .expected = "this one prepared",
                                         .remedy = "Call join_uneven_inputs()"}));
    accelerator.end_training();
    EXPECT_THROW(run_joined(accelerator, {model}, {}, [] {}), UsageError);
  });
}

TEST(Join, TheGuardEndsWithItsScope) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp());
    {
      const auto join = accelerator.join_uneven_inputs({model});
      for (int64_t batch = 0; batch < 1 + rank.rank(); ++batch) {
        accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
      }
    }
    const at::Tensor own = model->out->weight.detach();
    EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own));
  });
}

/// What a destructor could not throw, the next verb does.
TEST(Join, AnErrorAtTheEndOfTheScopeIsNotLost) {
  ddp::on_ranks(2, [](const Rank& rank) {
    auto options = rank.options(uneven());
    std::vector<std::string> lines;
    options.log_sink = [&](accelerate::LogLevel level, std::string_view line) {
      if (level == accelerate::LogLevel::kWarning) lines.emplace_back(line);
    };
    Accelerator accelerator(options);
    auto model = accelerator.prepare(ddp::Mlp());
    const auto loop = [&] {
      const auto join = accelerator.join_uneven_inputs({model});
      if (rank.rank() == 1) throw std::runtime_error("mine");
    };
    if (rank.rank() == 1) {
      EXPECT_THROW(loop(), std::runtime_error);
      return;
    }
    loop();
    EXPECT_THAT(lines, testing::ElementsAre(testing::HasSubstr("join_uneven_inputs did not come to its end")));
    EXPECT_THROW(accelerator.backward(ddp::mean_square(model(ddp::inputs(0, 0)))), CommError);
  });
}

/// Every verb of training throws it, once.
TEST(Join, AnErrorAtTheEndOfTheScopeIsThrownByWhateverVerbIsNext) {
  const std::vector<std::function<void(Accelerator&, accelerate::Model<ddp::MlpImpl>&)>> verbs = {
      [](auto& accelerator, auto& model) { auto window = accelerator.accumulate(model); },
      [](auto& accelerator, auto& model) { accelerator.clip_grad_norm_(model, {.max_norm = 1}); },
      [](auto& accelerator, auto& model) { accelerator.clip_grad_value_(model, {.clip_value = 1}); },
      [](auto& accelerator, auto& model) { accelerator.save_model(model, "not/written"); },
      [](auto& accelerator, auto& model) { accelerator.free_memory(model); },
      [](auto& accelerator, auto&) { accelerator.wait_for_everyone(); },
      [](auto& accelerator, auto&) { accelerator.end_training(); },
  };
  for (size_t verb = 0; verb < verbs.size(); ++verb) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      auto options = rank.options(uneven());
      options.log_sink = [](accelerate::LogLevel, std::string_view) {};
      Accelerator accelerator(options);
      auto model = accelerator.prepare(ddp::Mlp());
      const auto loop = [&] {
        const auto join = accelerator.join_uneven_inputs({model});
        if (rank.rank() == 1) throw std::runtime_error("mine");
      };
      if (rank.rank() == 1) {
        EXPECT_THROW(loop(), std::runtime_error);
        return;
      }
      loop();
      EXPECT_THAT([&] { verbs[verb](accelerator, model); },
                  testing::ThrowsMessage<CommError>(testing::HasSubstr("left the loop with an exception")))
          << "verb " << verb;
    });
  }
}

/// What the loop has to do with cannot go while it is open, nor can anything come that the others would wait for.
TEST(Join, NothingIsPreparedOrLetGoInside) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp());
    run_joined(accelerator, {model}, {}, [&] {
      const auto refused = [](const char* place) {
        return ThrowsError<UsageError>({.place = place,
                                        .what = "inside join_uneven_inputs",
                                        .got = std::string(place) + "()",
                                        .expected = "before or after",
                                        .remedy = "join.finish()"});
      };
      EXPECT_THAT([&] { accelerator.free_memory(model); }, refused("free_memory"));
      EXPECT_THAT([&] { accelerator.prepare(ddp::Mlp()); }, refused("prepare"));
      for (int64_t batch = 0; batch < 1 + rank.rank(); ++batch) {
        accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
      }
    });
    accelerator.prepare(ddp::Mlp(2));
    accelerator.free_memory(model);
  });
}

/// The end of training inside a loop leaves nothing behind that the guard would touch.
TEST(Join, TrainingMayEndInside) {
  ddp::on_ranks(2, [](const Rank& rank) {
    auto options = rank.options(uneven());
    options.log_sink = [](accelerate::LogLevel, std::string_view) {};
    Accelerator accelerator(options);
    auto model = std::make_optional(accelerator.prepare(ddp::Mlp()));
    auto join = accelerator.join_uneven_inputs({*model});
    model.reset();
    accelerator.end_training();
    EXPECT_THROW(join.finish(), UsageError);
  });
}

auto counts_refused(const char* place, const char* got) {
  return ThrowsError<UsageError>({.place = place,
                                  .what = "inside join_uneven_inputs",
                                  .got = got,
                                  .expected = "even batches",
                                  .remedy = "even_batches = true"});
}

/// Sums over the ranks need all of them; also those that have no data hear why there is none.
TEST(Join, CountedLossesAreAnErrorOnEveryRank) {
  for (const int64_t least : {0, 1}) {
    ddp::on_ranks(3, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(uneven()));
      auto model = accelerator.prepare(ddp::Mlp());
      const auto joined = ddp::once([&] {
        run_joined(accelerator, {model}, {}, [&] {
          for (int64_t batch = 0; batch < least + rank.rank(); ++batch) {
            accelerator.backward(model(ddp::inputs(rank.rank(), batch)).pow(2).sum(), {.num_items = 4});
          }
        });
      });
      EXPECT_THAT(joined, counts_refused("backward", ".num_items or .weight"));
      accelerator.backward(model(ddp::inputs(rank.rank(), 0)).pow(2).sum(), {.num_items = 4});
    });
  }
}

TEST(Join, CountsOfASchedulerAreAnErrorOnEveryRank) {
  ddp::on_ranks(3, [&](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    ddp::Mlp net;
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto schedule = accelerate::constant().in(accelerate::ScheduleUnit::kTokens);
    auto prepared = accelerator.prepare(net, sgd, schedule);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    auto& scheduler = std::get<2>(prepared);
    const auto joined = ddp::once([&] {
      run_joined(accelerator, {model}, {}, [&] {
        for (int64_t batch = 0; batch < rank.rank(); ++batch) {
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
          optimizer.step();
          optimizer.zero_grad();
          scheduler.step(accelerate::Seen{.count = 7});
        }
      });
    });
    EXPECT_THAT(joined, counts_refused("scheduler.step", "step(Seen{...})"));
    scheduler.step(accelerate::Seen{.count = 7});
  });
}

/// With even batches no rank waits for another, and counts are what they are elsewhere.
TEST(Join, CountsAreFineWithEvenBatches) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(uneven()));
    auto model = accelerator.prepare(ddp::Mlp());
    run_joined(accelerator, {model}, {.even_batches = true},
               [&] { accelerator.backward(model(ddp::inputs(rank.rank(), 0)).pow(2).sum(), {.num_items = 4}); });
  });
}

/// A model that nobody shares may be on some processes alone.
TEST(Join, AModelForEvaluationOnOneRankDoesNotCount) {
  for (const bool in_the_list : {false, true}) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(uneven()));
      std::vector<accelerate::Joinable> models;
      if (rank.rank() == 0) {
        auto judge = accelerator.prepare_model(ddp::TwoHeads(), {.evaluation_mode = true});
        if (in_the_list) models.emplace_back(judge);
      }
      auto model = accelerator.prepare(ddp::Mlp());
      models.emplace_back(model);
      run_joined(accelerator, models, {}, [&] {
        for (int64_t batch = 0; batch < 1 + 2 * rank.rank(); ++batch) {
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), batch))));
        }
      });
      const at::Tensor own = model->out->weight.detach();
      EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own));
    });
  }
}

/// What the tensors of this thread occupy.
class Memory final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    now_ += size;
    most_ = std::max(most_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t most() const { return most_; }

 private:
  int64_t now_ = 0;
  int64_t most_ = 0;
};

/// A process that waits for the others needs room for one exchange, however many there are.
TEST(Join, WaitingDoesNotTakeMemoryForEachExchange) {
  constexpr int64_t kBytes = 256 * 256 * 4;
  for (const char* hook : {"no", "fp16"}) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      Accelerator accelerator(rank.options(uneven({.comm_hook = hook})));
      auto model = accelerator.prepare(torch::nn::Linear(torch::nn::LinearOptions(256, 256).bias(false)));
      auto join = accelerator.join_uneven_inputs({model});
      for (int64_t batch = 0; batch < 40 * rank.rank(); ++batch) {
        accelerator.backward(model(ddp::inputs(1, batch, 2, 256).to(at::kFloat)).pow(2).mean());
      }
      const auto memory = std::make_shared<Memory>();
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
      join.finish();
      if (rank.rank() == 0) {
        EXPECT_LT(memory->most(), 12 * kBytes) << hook;
      }
    });
  }
}

/// Buckets that the hook does not take are not announced as its own.
TEST(Join, PowerSgdBesideSparseGradients) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options(
        uneven({.comm_hook = "power_sgd", .comm_state_option = accelerate::PowerSgd{.start_powerSGD_iter = 2}})));
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(6, 30).sparse(true));
    torch::nn::Sequential net(words, torch::nn::Linear(30, 20));
    ddp::fill(*net, 1, at::kFloat);
    auto model = accelerator.prepare(net);
    const auto pass = [&](int64_t batch) {
      net->zero_grad();
      accelerator.backward(model((torch::arange(4) + batch) % 6).pow(2).mean());
    };
    run_joined(accelerator, {model}, {}, [&] {
      for (int64_t batch = 0; batch < 3 + 4 * rank.rank(); ++batch) pass(batch);
    });
    pass(rank.rank());
    const at::Tensor own = net->parameters().back().grad();
    EXPECT_TRUE(torch::equal(accelerator.broadcast(own.clone()), own));
  });
}

}  // namespace
