// What goes wrong in join_uneven_inputs: on one rank, or on all, and every rank hears of it.
#include "tests/ranks/join_support.h"

namespace {

using accelerate::CommError;
using accelerate::Ddp;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Rank;
using ddp::run_joined;
using ddp::uneven;

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

}  // namespace
