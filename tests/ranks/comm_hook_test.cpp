// Communication hooks as a user chooses them; the parts of PowerSGD.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "accelerate/strategy/ddp/low_rank.h"
#include "tests/ranks/ddp_support.h"

namespace {

using accelerate::ConfigError;
using accelerate::Ddp;
using accelerate::PowerSgd;
using accelerate::support::ThrowsError;
using ddp::Accelerator;
using ddp::Rank;

// The original's test_ddp_comm_hook.py.

struct PowerOfInputImpl : torch::nn::Module {
  PowerOfInputImpl() {
    auto generator = at::detail::createCPUGenerator(0);
    p = register_parameter("p", torch::randn({40, 20}, generator));
  }
  at::Tensor forward(const at::Tensor& x, int64_t rank) { return p * x.pow(1 + rank); }
  at::Tensor p;
};
TORCH_MODULE(PowerOfInput);

at::Tensor gradient_with(const Rank& rank, const Ddp& options, int64_t passes = 1) {
  Accelerator accelerator(rank.options({.strategy = options}));
  auto model = accelerator.prepare(PowerOfInput());
  auto generator = at::detail::createCPUGenerator(2024);
  const at::Tensor input = torch::randn({40, 20}, generator);
  for (int64_t pass = 0; pass < passes; ++pass) {
    model->zero_grad();
    accelerator.backward(model(input, rank.rank()).mean());
  }
  return model->p.grad().clone();
}

TEST(CommHook, GradientsOfEveryHookAndWrapperAreNearThePlainOnes) {
  const std::vector<Ddp> combinations = {
      {.comm_hook = "no", .comm_wrapper = "no"},
      {.comm_hook = "fp16", .comm_wrapper = "no"},
      {.comm_hook = "bf16", .comm_wrapper = "no"},
      {.comm_hook = "power_sgd", .comm_wrapper = "no"},
      {.comm_hook = "power_sgd", .comm_wrapper = "fp16"},
      {.comm_hook = "power_sgd", .comm_wrapper = "bf16"},
      {.comm_hook = "power_sgd", .comm_wrapper = "no", .comm_state_option = PowerSgd{.matrix_approximation_rank = 2}},
      {.comm_hook = "batched_power_sgd", .comm_wrapper = "no"},
      {.comm_hook = "batched_power_sgd", .comm_wrapper = "fp16"},
      {.comm_hook = "batched_power_sgd", .comm_wrapper = "bf16"},
  };
  for (const Ddp& options : combinations) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      const at::Tensor got = gradient_with(rank, options);
      EXPECT_TRUE(torch::allclose(got, gradient_with(rank, Ddp{}), 1e-2, 1e-2))
          << options.comm_hook << " " << options.comm_wrapper;
      EXPECT_GT(got.abs().max().item<double>(), 1e-4);
    });
  }
}

TEST(CommHook, TheOptionsOfTheOriginalReachTheStrategy) {
  const Ddp options{.bucket_cap_mb = 15, .find_unused_parameters = true};
  EXPECT_TRUE(options.broadcast_buffers);
  EXPECT_FALSE(options.gradient_as_bucket_view);
  EXPECT_FALSE(options.static_graph);
  EXPECT_EQ(options.comm_hook, "no");
  ddp::on_ranks(2, [&](const Rank& rank) {
    EXPECT_TRUE(torch::allclose(gradient_with(rank, options), gradient_with(rank, Ddp{})));
  });
}

/// The hook is the thing that travels: the numbers are those of the precision, not of float32.
TEST(CommHook, HalfPrecisionRoundsAsTheOriginalDoes) {
  ddp::on_ranks(2, [](const Rank& rank) {
    for (const auto& [hook, dtype] : {std::pair("fp16", at::kHalf), std::pair("bf16", at::kBFloat16)}) {
      Accelerator accelerator(rank.options({.strategy = Ddp{.comm_hook = hook}}));
      auto model = accelerator.prepare(torch::nn::Linear(torch::nn::LinearOptions(7, 1).bias(false)));
      const auto input = [](int64_t of) { return ddp::numbers({1, 7}, 3.0 + static_cast<double>(of), at::kFloat); };
      accelerator.backward(model(input(rank.rank())).sum());
      const at::Tensor expected = (input(0).to(dtype) / 2 + input(1).to(dtype) / 2).to(at::kFloat);
      EXPECT_TRUE(torch::equal(model->weight.grad(), expected)) << hook;
    }
  });
}

enum class CountedAs { kNothing, kSum, kMean };

/// Parameters after some updates of two micro-steps; `scale` is how large gradients are.
ddp::Tensors train_counted(const Rank& rank, const Ddp& options, CountedAs way, double scale) {
  Accelerator accelerator(rank.options({.gradient_accumulation_steps = 2, .strategy = options}));
  ddp::Mlp net(1);
  auto [model, optimizer] = accelerator.prepare(net, torch::optim::SGD(net->parameters(), 0.1 / scale));
  for (int64_t step = 0; step < 8; ++step) {
    const auto window = accelerator.accumulate(model);
    const at::Tensor losses = model(ddp::inputs(rank.rank(), step)).pow(2) * scale;
    const auto items = static_cast<double>(losses.numel());
    if (way == CountedAs::kNothing) accelerator.backward(losses.mean());
    if (way == CountedAs::kSum) accelerator.backward(losses.sum(), {.num_items = items});
    if (way == CountedAs::kMean) accelerator.backward(losses.mean(), {.weight = items});
    optimizer.step();
    optimizer.zero_grad();
  }
  return ddp::values(*model);
}

/// Counts are powers of two, so that the means are the same to the last bit. Their sums are too large for a half.
TEST(CommHook, IsGivenMeansAlsoOfLossesThatAreCounted) {
  for (const char* hook : {"fp16", "bf16", "power_sgd", "batched_power_sgd"}) {
    Ddp options{.comm_hook = hook};
    if (std::string(hook).find("sgd") != std::string::npos) {
      options.comm_wrapper = "fp16";
      options.comm_state_option = PowerSgd{.start_powerSGD_iter = 2};
    }
    ddp::on_ranks(2, [&](const Rank& rank) {
      constexpr double kLarge = 16384;
      const auto plain = train_counted(rank, options, CountedAs::kNothing, kLarge);
      EXPECT_GT(ddp::distance(plain, ddp::values(*ddp::Mlp(1))), 1e-3) << "something is learned";
      for (const CountedAs way : {CountedAs::kSum, CountedAs::kMean}) {
        EXPECT_LT(ddp::distance(train_counted(rank, options, way, kLarge), plain), ddp::kRounding) << hook;
      }
    });
  }
}

/// Static graphs end their first pass in a way of their own, and gradients may live in the buckets.
TEST(CommHook, WorksWithEveryOtherOption) {
  for (const char* hook : {"fp16", "power_sgd", "batched_power_sgd"}) {
    for (const int variant : {0, 1, 2, 3}) {
      Ddp options{.find_unused_parameters = variant == 1,
                  .static_graph = variant == 2,
                  .gradient_as_bucket_view = variant == 3,
                  .comm_hook = hook};
      if (std::string(hook) != "fp16") options.comm_state_option = PowerSgd{.start_powerSGD_iter = 2};
      ddp::on_ranks(2, [&](const Rank& rank) {
        Accelerator accelerator(rank.options({.strategy = options}));
        auto model = accelerator.prepare(ddp::TwoHeads());
        for (int64_t step = 0; step < 5; ++step) {
          model->zero_grad(/*set_to_none=*/variant != 3);
          accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), step), true, variant != 1)));
          for (const at::Tensor& gradient : ddp::gradients(*model)) {
            if (!gradient.defined()) continue;
            EXPECT_TRUE(gradient.isfinite().all().item<bool>());
            EXPECT_TRUE(torch::equal(accelerator.broadcast(gradient.clone()), gradient)) << hook << " " << variant;
          }
        }
      });
    }
  }
}

/// An embedding whose gradient is sparse, or numbers that are complex, behind a layer that is compressed.
struct MixedImpl : torch::nn::Module {
  explicit MixedImpl(bool is_complex) {
    if (is_complex) {
      phases = register_parameter("phases", torch::polar(torch::ones(30), torch::arange(30, at::kFloat)));
    } else {
      words = register_module("words", torch::nn::Embedding(torch::nn::EmbeddingOptions(6, 30).sparse(true)));
      const torch::NoGradGuard no_grad;
      words->weight.copy_(ddp::numbers({6, 30}, 5, at::kFloat));
    }
    layer = register_module("layer", torch::nn::Linear(torch::nn::LinearOptions(30, 20).bias(false)));
    ddp::fill(*layer, 1, at::kFloat);
  }
  at::Tensor forward(const at::Tensor& ids) {
    const at::Tensor rows = phases.defined() ? torch::real(phases * ids.unsqueeze(1)) : words(ids);
    return layer(rows).pow(2).mean();
  }
  at::Tensor phases;
  torch::nn::Embedding words{nullptr};
  torch::nn::Linear layer{nullptr};
};
TORCH_MODULE(Mixed);

/// Buckets that hooks do not take come first, last or between: the hook counts its own.
TEST(CommHook, PowerSgdCompressesBesideSparseAndComplexGradients) {
  for (const bool is_complex : {false, true}) {
    for (const float cap : {25.0F, 0.0001F}) {
      ddp::on_ranks(2, [&](const Rank& rank) {
        auto options = rank.options({.strategy = Ddp{.bucket_cap_mb = cap,
                                                     .comm_hook = "power_sgd",
                                                     .comm_state_option = PowerSgd{.start_powerSGD_iter = 3}}});
        options.init_process_group.backend = "gloo";  // which sums sparse gradients
        std::string lines;
        options.log_sink = [&](accelerate::LogLevel, std::string_view line) { lines += std::string(line) + "\n"; };
        Accelerator accelerator(options);
        Mixed net(is_complex);
        auto model = accelerator.prepare(net);
        for (int64_t pass = 0; pass < 8; ++pass) {
          model->zero_grad();
          accelerator.backward(model((torch::arange(4) + pass + rank.rank()) % 6));
          const at::Tensor gradient = model->layer->weight.grad();
          EXPECT_TRUE(torch::equal(accelerator.broadcast(gradient.clone()), gradient)) << "pass " << pass;
          if (pass > 3) {
            EXPECT_EQ(torch::linalg_matrix_rank(gradient.to(at::kDouble), 1e-5).item<int64_t>(), 1) << "pass " << pass;
          }
        }
        EXPECT_THAT(lines, testing::HasSubstr("PowerSGD begins after 3 averaged backward passes"));
      });
    }
  }
}

/// A batch whose gradients are not finite costs its own update and no later one.
TEST(CommHook, PowerSgdForgetsABatchThatIsNotFinite) {
  for (const char* hook : {"power_sgd", "batched_power_sgd"}) {
    ddp::on_ranks(2, [&](const Rank& rank) {
      Accelerator accelerator(rank.options({.strategy = Ddp{
                                                .comm_hook = hook,
                                                .comm_state_option = PowerSgd{.start_powerSGD_iter = 2},
                                            }}));
      auto model = accelerator.prepare(PowerOfInput());
      const auto gradient_of = [&](double factor) {
        model->zero_grad();
        accelerator.backward(model(ddp::numbers({40, 20}, 3, at::kFloat) * factor, rank.rank()).mean());
        return model->p.grad();
      };
      for (int64_t pass = 0; pass < 4; ++pass) gradient_of(1);
      const double bad = rank.rank() == 1 ? std::numeric_limits<double>::infinity() : 1;
      EXPECT_FALSE(gradient_of(bad).isfinite().all().item<bool>()) << hook;
      for (int64_t pass = 0; pass < 3; ++pass) {
        const at::Tensor after = gradient_of(1);
        EXPECT_TRUE(after.isfinite().all().item<bool>()) << hook << ", pass " << pass;
        EXPECT_GT(after.abs().max().item<double>(), 1e-4) << hook << ", pass " << pass;
        EXPECT_TRUE(torch::equal(accelerator.broadcast(after.clone()), after)) << hook << ", pass " << pass;
      }
    });
  }
}

/// Whatever a hook has under way ends with an error when a rank is gone.
TEST(CommHook, ARankThatLeavesIsAnError) {
  for (const char* backend : {"shm", "gloo"}) {
    for (const char* hook : {"bf16", "power_sgd"}) {
      Ddp options{.bucket_cap_mb = 0.0001, .comm_hook = hook};
      if (std::string(hook) == "power_sgd") options.comm_state_option = PowerSgd{.start_powerSGD_iter = 2};
      accelerate::testing::run_ranks(2,
                                     [&](const Rank& rank) {
                                       Accelerator accelerator(rank.options({.strategy = options}));
                                       auto model = accelerator.prepare(ddp::Mlp());
                                       const auto pass = [&] {
                                         accelerator.backward(ddp::mean_square(model(ddp::inputs(rank.rank(), 0))));
                                       };
                                       for (int64_t good = 0; good < 4; ++good) pass();
                                       if (rank.rank() == 1) return accelerator.end_training();
                                       EXPECT_THROW(pass(), accelerate::CommError) << hook << " over " << backend;
                                     },
                                     {.backend = backend});
    }
  }
}

void expect_refused(const Ddp& options, const accelerate::ErrorText& text) {
  ddp::on_ranks(2, [&](const Rank& rank) {
    EXPECT_THAT([&] { Accelerator(rank.options({.strategy = options})); }, ThrowsError<ConfigError>(text));
  });
}

TEST(CommHook, UnknownNamesAreErrorsWithTheChoices) {
  expect_refused({.comm_hook = "fp8"}, {.place = "comm_hook",
                                        .what = "not known",
                                        .got = ".comm_hook = \"fp8\"",
                                        .expected = "\"power_sgd\"",
                                        .remedy = "Leave it out"});
  expect_refused({.comm_hook = "fp16", .comm_wrapper = "power_sgd"}, {.place = "comm_wrapper",
                                                                      .what = "not known",
                                                                      .got = ".comm_wrapper = \"power_sgd\"",
                                                                      .expected = "\"bf16\", \"fp16\", \"no\"",
                                                                      .remedy = "Leave it out"});
}

TEST(CommHook, AWrapperAroundNothingIsAnError) {
  expect_refused({.comm_wrapper = "bf16"}, {.place = "comm_wrapper",
                                            .what = "no communication hook to wrap",
                                            .got = ".comm_wrapper = \"bf16\" with .comm_hook = \"no\"",
                                            .expected = "a hook",
                                            .remedy = "`.comm_hook = \"bf16\"`"});
}

TEST(CommHook, StatesOutOfRangeAreErrors) {
  const auto with = [](const PowerSgd& state) { return Ddp{.comm_hook = "power_sgd", .comm_state_option = state}; };
  const auto text = [](const char* what, const char* got, const char* expected) {
    return accelerate::ErrorText{
        .place = "comm_state_option", .what = what, .got = got, .expected = expected, .remedy = "default"};
  };
  expect_refused(with({.start_powerSGD_iter = 1}),
                 text("cut anew after the first backward pass", ".start_powerSGD_iter = 1", "2 or more"));
  expect_refused(with({.start_powerSGD_iter = 0, .use_error_feedback = false}),
                 text("remembers buckets", ".start_powerSGD_iter = 0", ".warm_start"));
  expect_refused(with({.matrix_approximation_rank = 0}),
                 text("not positive", ".matrix_approximation_rank = 0", "1 or more"));
  expect_refused(with({.random_seed = -1}), text("seed", ".random_seed = -1", "0 to 4294967295"));
  expect_refused(with({.random_seed = int64_t{1} << 32}), text("seed", "4294967296", "0 to 4294967295"));
  expect_refused(with({.min_compression_rate = -1}), text("negative", ".min_compression_rate = -1", "0 or more"));
  ddp::on_ranks(2, [&](const Rank& rank) {
    // Neither remembers anything of a bucket.
    gradient_with(rank, with({.start_powerSGD_iter = 0, .use_error_feedback = false, .warm_start = false}), 3);
  });
}

TEST(CommHook, RanksWithOtherHooksAreAnError) {
  ddp::on_ranks(2, [](const Rank& rank) {
    Accelerator accelerator(rank.options({.strategy = Ddp{.comm_hook = rank.rank() == 0 ? "fp16" : "bf16"}}));
    EXPECT_THAT([&] { accelerator.prepare(ddp::Mlp()); },
                ThrowsError<accelerate::UsageError>({.place = "prepare",
                                                     .what = "not the same on every process",
                                                     .got = ".comm_hook = \"bf16\"",
                                                     .expected = "the same options",
                                                     .remedy = "same configuration"}));
  });
}

TEST(PowerSgdSeeds, AreNumpys) {
  const auto draws = [](uint32_t seed) {
    accelerate::internal::RandintSeeds seeds(seed);
    std::vector<uint64_t> drawn;
    for (int i = 0; i < 5; ++i) drawn.push_back(seeds.next());
    return drawn;
  };
  // [numpy.random.RandomState(seed).randint(1_000_000_000) for _ in range(5)]
  EXPECT_THAT(draws(0), testing::ElementsAre(209652396, 398764591, 924231285, 404868288, 441365315));
  EXPECT_THAT(draws(17), testing::ElementsAre(191834735, 780729585, 131369103, 404731270, 822575510));
}

RC_GTEST_PROP(PowerSgdColumns, AreOrthonormal, ()) {
  const auto rows = *rc::gen::inRange<int64_t>(1, 20);
  const auto columns = *rc::gen::inRange<int64_t>(1, rows + 1);
  const auto count = *rc::gen::inRange<int64_t>(1, 4);
  auto generator = at::detail::createCPUGenerator(*rc::gen::arbitrary<uint32_t>());
  const at::Tensor given = torch::randn({count, rows, columns}, generator, at::kDouble);
  at::Tensor made = given.clone();
  accelerate::internal::orthogonalize(made, 0);
  const at::Tensor products = made.transpose(1, 2).matmul(made);
  RC_ASSERT(torch::allclose(products, torch::eye(columns, at::kDouble).expand_as(products), 0, 1e-8));
  // They span what was given.
  RC_ASSERT(torch::allclose(made.matmul(made.transpose(1, 2).matmul(given)), given, 1e-6, 1e-6));
}

TEST(PowerSgdColumns, OfZerosStayZero) {
  for (const int64_t columns : {1, 2}) {
    at::Tensor zeros = torch::zeros({1, 4, columns});
    accelerate::internal::orthogonalize(zeros, 0);
    EXPECT_TRUE(torch::equal(zeros, torch::zeros({1, 4, columns})));
  }
}

}  // namespace
