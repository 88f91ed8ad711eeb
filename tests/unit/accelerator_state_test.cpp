// What one Accelerator says about itself, what can be set, randomness, and the construction options' effects.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>

#include <set>

#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"
#include "tests/unit/training.h"

namespace {

using accelerate::Accelerator;
using accelerate::AutocastKwargs;
using accelerate::ConfigError;
using accelerate::DataLoader;
using accelerate::DataLoaderConfiguration;
using accelerate::DistributedType;
using accelerate::TensorDataset;
using accelerate::UsageError;
using accelerate::support::integers;
using accelerate::support::same_bytes;
using accelerate::support::ThrowsError;

TEST(State, EveryAttributeOfOneProcess) {
  const Accelerator accelerator;
  EXPECT_EQ(accelerator.distributed_type(), DistributedType::kNo);
  EXPECT_EQ(testing::PrintToString(accelerator.distributed_type()), "NO");
  EXPECT_FALSE(accelerator.multi_device());
  EXPECT_TRUE(accelerator.should_save_model());
  EXPECT_FALSE(accelerator.native_amp());
  EXPECT_TRUE(accelerator.device_placement());
  EXPECT_TRUE(accelerator.step_scheduler_with_optimizer());
  EXPECT_FALSE(accelerator.split_batches());
  EXPECT_TRUE(accelerator.even_batches());
  EXPECT_TRUE(accelerator.use_seedable_sampler());
  EXPECT_TRUE(accelerator.non_blocking());
  EXPECT_EQ(accelerator.rng_types(), std::vector<std::string>{"generator"});
  EXPECT_EQ(accelerator.project_dir(), std::nullopt);
  EXPECT_EQ(accelerator.logging_dir(), std::nullopt);
  EXPECT_EQ(accelerator.save_iteration(), 0);
  EXPECT_EQ(accelerator.state().backend, "");
  EXPECT_FALSE(accelerator.state().debug);
}

TEST(State, FollowsTheOptions) {
  const Accelerator accelerator(
      {.mixed_precision = "bf16",
       .dataloader_config = DataLoaderConfiguration{.even_batches = false, .split_batches = true},
       .step_scheduler_with_optimizer = false,
       .device_placement = false,
       .rng_types = {"torch"},
       .project_config =
           accelerate::ProjectConfiguration{.project_dir = "run", .logging_dir = "logs", .iteration = 3}});
  EXPECT_TRUE(accelerator.native_amp());
  EXPECT_FALSE(accelerator.device_placement());
  EXPECT_FALSE(accelerator.step_scheduler_with_optimizer());
  EXPECT_TRUE(accelerator.split_batches());
  EXPECT_FALSE(accelerator.even_batches());
  EXPECT_EQ(accelerator.rng_types(), std::vector<std::string>{"torch"});
  EXPECT_EQ(accelerator.project_dir(), "run");
  EXPECT_EQ(accelerator.logging_dir(), "logs");
  EXPECT_EQ(accelerator.save_iteration(), 3);
  EXPECT_THAT(accelerator.state().text(), testing::HasSubstr("Mixed precision type: bf16\n"));
}

TEST(State, SetDirectoriesFillsTheLoggingFolderOnlyIfThereIsNone) {
  accelerate::ProjectConfiguration project;
  project.set_directories("a");
  project.set_directories("b");
  EXPECT_EQ(project.project_dir, "b");
  EXPECT_EQ(project.logging_dir, "a");
}

TEST(GradientState, DefaultsAndTheSetter) {
  Accelerator accelerator;
  const accelerate::GradientState state = accelerator.gradient_state();
  EXPECT_EQ(state.num_steps(), 1);
  EXPECT_TRUE(state.sync_gradients());
  EXPECT_TRUE(state.sync_with_dataloader());
  EXPECT_FALSE(state.in_dataloader());
  EXPECT_FALSE(state.active_dataloader());
  EXPECT_FALSE(state.end_of_dataloader());
  EXPECT_EQ(state.remainder(), -1);
  accelerator.set_gradient_accumulation_steps(4);
  EXPECT_EQ(state.num_steps(), 4) << "a view, not a copy";
  EXPECT_EQ(accelerator.gradient_accumulation_steps(), 4);
}

TEST(GradientState, TheInnermostLoopsLoaderIsTheActiveOne) {
  Accelerator accelerator;
  auto [first, second] = accelerator.prepare(DataLoader(TensorDataset(torch::arange(80)), {.batch_size = 16}),
                                             DataLoader(TensorDataset(torch::arange(96)), {.batch_size = 16}));
  const auto state = accelerator.gradient_state();
  EXPECT_FALSE(state.active_dataloader());
  int64_t outer = 0;
  for ([[maybe_unused]] auto& batch : first) {
    EXPECT_TRUE(state.in_dataloader());
    EXPECT_TRUE(state.active_dataloader() == first);
    EXPECT_FALSE(state.active_dataloader() == second);
    if (outer == 1) {
      int64_t inner = 0;
      for ([[maybe_unused]] auto& other : second) {
        EXPECT_TRUE(state.active_dataloader() == second);
        EXPECT_EQ(state.end_of_dataloader(), ++inner == 6);
      }
      EXPECT_EQ(inner, 6);
      EXPECT_TRUE(state.active_dataloader() == first);
    }
    EXPECT_EQ(state.end_of_dataloader(), ++outer == 5);
    EXPECT_EQ(state.remainder(), 0);
  }
  EXPECT_EQ(outer, 5);
  EXPECT_FALSE(state.active_dataloader());
}

TEST(GradientState, TextShowsTheLoop) {
  Accelerator accelerator({.gradient_accumulation_plugin =
                               accelerate::GradientAccumulationPlugin{.num_steps = 2, .sync_with_dataloader = false}});
  const auto loader = accelerator.prepare(DataLoader(TensorDataset(torch::arange(3)), {.batch_size = 2}));
  std::string last;
  for ([[maybe_unused]] auto& batch : loader) last = accelerator.gradient_state().text();
  EXPECT_EQ(last,
            "Sync Gradients: True\nAt end of current dataloader: True\nExtra samples added: 1\n"
            "Gradient accumulation plugin: {'num_steps': 2, 'sync_with_dataloader': False}\n");
}

TEST(OnProcess, InOneProcessItRunsWhateverIndexIsAskedFor) {
  const Accelerator accelerator;
  const auto twice = [](int x) { return 2 * x; };
  EXPECT_EQ(accelerator.on_process(0, twice)(4), 8);
  EXPECT_EQ(accelerator.on_process(3, twice)(4), 8) << "a program for four processes, tried on one";
  EXPECT_EQ(accelerator.on_local_process(3, twice)(4), 8);
  EXPECT_EQ(accelerator.on_last_process(twice)(4), 8);
  EXPECT_EQ(accelerator.on_local_main_process(twice)(4), 8);
  EXPECT_THAT([&] { accelerator.on_process(-1, twice); }, ThrowsError<UsageError>({.place = "on_process",
                                                                                   .what = "no such process",
                                                                                   .got = "-1",
                                                                                   .expected = "0 or more",
                                                                                   .remedy = "a process that exists"}));
}

TEST(MainProcessFirst, InOneProcessIsNothing) {
  Accelerator accelerator;
  auto order = accelerator.main_process_first();
  auto local = accelerator.local_main_process_first();
  order.finish();
  EXPECT_FALSE(accelerator.check_trigger());
  accelerator.set_trigger();
  EXPECT_TRUE(accelerator.check_trigger());
  EXPECT_FALSE(accelerator.check_trigger());
}

TEST(SetSeed, TheSameSeedGivesTheSameNumbers) {
  const Accelerator accelerator;
  accelerate::set_seed(7);
  const at::Tensor first = torch::rand(4);
  accelerator.set_seed(7, {.device_specific = true});
  EXPECT_TRUE(same_bytes(torch::rand(4), first)) << "rank 0 adds nothing";
  accelerate::set_seed(8);
  EXPECT_FALSE(same_bytes(torch::rand(4), first));
}

TEST(SetSeed, DeterministicIsSwitchedOnAndNeverOff) {
  ASSERT_FALSE(at::globalContext().deterministicAlgorithms());
  accelerate::set_seed(1);
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
  accelerate::set_seed(1, {.deterministic = true});
  EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
  EXPECT_FALSE(at::globalContext().deterministicAlgorithmsWarnOnly());
  accelerate::set_seed(1);
  EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST(SetSeed, TheFreeFunctionKnowsNoProcess) {
  EXPECT_THAT([] { accelerate::set_seed(1, {.device_specific = true}); },
              ThrowsError<UsageError>({.place = "set_seed",
                                       .what = "not known here",
                                       .got = ".device_specific = true",
                                       .expected = "an Accelerator",
                                       .remedy = "accelerator.set_seed"}));
}

TEST(SynchronizeRngStates, RefusesWhatItCannotDo) {
  const Accelerator accelerator;
  EXPECT_NO_THROW(accelerator.synchronize_rng_states({"torch"}));
  at::Generator generator = at::detail::createCPUGenerator(3);
  EXPECT_NO_THROW(accelerator.synchronize_rng_states({"torch", "generator"}, generator));
  const auto refuses = [](const std::string& what, const std::string& got) {
    return ThrowsError<UsageError>({.place = "synchronize_rng_states",
                                    .what = what,
                                    .got = got,
                                    .expected = "\"torch\", \"cuda\" or \"generator\"",
                                    .remedy = "Leave it out"});
  };
  EXPECT_THAT([&] { accelerator.synchronize_rng_states({"numpy"}); }, refuses("no random state of this name", "numpy"));
  EXPECT_THAT(
      [&] {
        accelerator.synchronize_rng_states({"torch", "generator"});
      },
      refuses("no generator was passed", "generator"));
  EXPECT_THAT([&] { accelerator.synchronize_rng_states({"cuda"}); }, refuses("the device is \"cpu\"", "cuda"));
}

template <class Loader>
std::vector<int64_t> pass(const Loader& loader) {
  std::vector<int64_t> ids;
  for (auto& [x] : loader) {
    const auto own = integers(x);
    ids.insert(ids.end(), own.begin(), own.end());
  }
  return ids;
}

auto shuffled(Accelerator& accelerator, std::optional<uint64_t> seed = {}) {
  return accelerator.prepare(
      DataLoader(TensorDataset(torch::arange(100)), {.batch_size = 8, .shuffle = true, .seed = seed}));
}

TEST(DataSeed, DecidesTheOrderOfLoadersWithoutASeedOfTheirOwn) {
  const auto order = [](uint64_t data_seed, std::optional<uint64_t> own = {}) {
    Accelerator accelerator({.dataloader_config = DataLoaderConfiguration{.data_seed = data_seed}});
    return pass(shuffled(accelerator, own));
  };
  accelerate::set_seed(1);
  const auto of_42 = order(42);
  accelerate::set_seed(2);
  EXPECT_EQ(order(42), of_42);
  EXPECT_NE(order(43), of_42);
  EXPECT_EQ(order(43, 5), order(42, 5)) << "the loader's own seed counts";
  Accelerator plain;
  EXPECT_EQ(pass(shuffled(plain, 42)), of_42);
}

TEST(SeedableSampler, TheSameSeedAndEpochGiveTheSameItems) {
  const auto three = [](const auto& loader) { return std::vector{pass(loader), pass(loader), pass(loader)}; };
  Accelerator accelerator;
  accelerate::set_seed(42);
  const auto loader = shuffled(accelerator);
  const auto first = three(loader);
  accelerate::set_seed(42);
  loader.set_epoch(0);
  EXPECT_EQ(three(loader), first);
  EXPECT_NE(first[0], first[1]);
}

TEST(SeedableSampler, WithoutItEachPassDrawsItsOrder) {
  Accelerator accelerator({.dataloader_config = DataLoaderConfiguration{.use_seedable_sampler = false}});
  const auto loader = shuffled(accelerator, 5);
  accelerate::set_seed(42);
  const auto first = pass(loader);
  const auto second = pass(loader);
  EXPECT_NE(first, second);
  EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), 100u);
  accelerate::set_seed(42);
  EXPECT_EQ(pass(loader), first) << "as the generator is, so is the order, in whatever epoch";
  torch::rand(1);
  EXPECT_NE(pass(loader), second) << "it depends on what was drawn before";
  accelerate::set_seed(43);
  EXPECT_NE(pass(loader), first);
}

struct MetaNetImpl : torch::nn::Module {
  MetaNetImpl() : weight(register_parameter("weight", torch::zeros({2, 2}, at::TensorOptions(at::kMeta)))) {}
  at::Tensor forward(const at::Tensor& x) { return torch::matmul(x, weight); }
  at::Tensor weight;
};
TORCH_MODULE(MetaNet);

struct MetaRows {
  int64_t size() const { return 4; }
  at::Tensor get_batch(std::span<const int64_t> indices) const {
    return torch::zeros({static_cast<int64_t>(indices.size())}, at::TensorOptions(at::kMeta));
  }
};

// What lies on no real device cannot be moved to one: it stays, or moving it fails.
TEST(DevicePlacement, WithoutItNothingMoves) {
  const auto loader_of = [] { return DataLoader(MetaRows(), {.batch_size = 2}); };
  Accelerator stays({.device_placement = false});
  MetaNet net;
  auto [model, loader] = stays.prepare(net, loader_of());
  EXPECT_TRUE(model->weight.is_meta());
  for (at::Tensor& x : loader) EXPECT_TRUE(x.is_meta());
  Accelerator moves;
  const auto moved = moves.prepare(loader_of());
  EXPECT_ANY_THROW(moved.begin());
  EXPECT_ANY_THROW(moves.prepare(net));
}

struct DtypeProbeImpl : torch::nn::Module {
  DtypeProbeImpl() { register_module("linear", linear); }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = linear(x);
    computed = y.scalar_type();
    cached = at::autocast::is_autocast_cache_enabled();
    return y;
  }
  torch::nn::Linear linear{2, 2};
  at::ScalarType computed = at::kByte;
  bool cached = true;
};
TORCH_MODULE(DtypeProbe);

TEST(AutocastHandler, DecidesAboutModelCallsAndAutocastWithoutOptions) {
  const auto compute = [](accelerate::AcceleratorOptions options) {
    Accelerator accelerator(std::move(options));
    DtypeProbe net;
    auto model = accelerator.prepare(net);
    EXPECT_EQ(model(torch::ones({1, 2})).scalar_type(), at::kFloat);
    return std::pair(net->computed, net->cached);
  };
  EXPECT_EQ(compute({.mixed_precision = "bf16"}), std::pair(at::kBFloat16, true));
  EXPECT_EQ(compute({.mixed_precision = "bf16", .autocast_handler = AutocastKwargs{.enabled = false}}).first,
            at::kFloat);
  EXPECT_EQ(compute({.mixed_precision = "bf16", .autocast_handler = AutocastKwargs{.cache_enabled = false}}),
            std::pair(at::kBFloat16, false));
  EXPECT_TRUE(at::autocast::is_autocast_cache_enabled()) << "as it was";

  const Accelerator accelerator(
      {.mixed_precision = "bf16", .autocast_handler = AutocastKwargs{.enabled = false, .cache_enabled = false}});
  {
    auto scope = accelerator.autocast();
    EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
    EXPECT_FALSE(at::autocast::is_autocast_cache_enabled());
    auto inner = accelerator.autocast({.enabled = true});
    EXPECT_TRUE(at::autocast::is_autocast_enabled(at::kCPU));
  }
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
}

TEST(LogLevel, DecidesWhatTheSinkGets) {
  const auto lines = [](const char* level) {
    std::vector<std::string> found;
    Accelerator accelerator({.log_level = level, .log_sink = [&](accelerate::LogLevel of, std::string_view line) {
                               if (of == accelerate::LogLevel::kInfo) found.emplace_back(line);
                             }});
    const auto loader =
        accelerator.prepare(DataLoader(TensorDataset(torch::arange(5)), {.batch_size = 2, .drop_last = true}));
    for (auto& [x] : loader) accelerator.gather_for_metrics(x);
    return found.size();
  };
  EXPECT_EQ(lines("INFO"), 1u);
  EXPECT_EQ(lines("warning"), 0u);
}

}  // namespace
