// join_uneven_inputs as a user meets it: loaders, buffers, several models.
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "tests/ranks/join_support.h"

namespace {

using accelerate::DataLoaderConfiguration;
using accelerate::Ddp;
using accelerate::UsageError;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Rank;
using ddp::run_joined;
using ddp::uneven;
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
    const Ddp sgd{.comm_hook = "power_sgd", .comm_state_option = accelerate::PowerSgd{.start_powerSGD_iter = 2}};
    auto options = rank.options(uneven(sgd));
    options.init_process_group.backend = "gloo";  // which sums sparse gradients
    Accelerator accelerator(options);
    const auto sparse = torch::nn::EmbeddingOptions(6, 30).sparse(true);
    torch::nn::Sequential net(torch::nn::Embedding(sparse), torch::nn::Linear(30, 20));
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
