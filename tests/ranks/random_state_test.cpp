// Randomness of several processes.
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/ranks/processes.h"
#include "tests/support/tensors.h"

namespace {

using accelerate::Accelerator;
using accelerate::AcceleratorOptions;
using accelerate::DataLoader;
using accelerate::DataLoaderConfiguration;
using accelerate::TensorDataset;
using accelerate::support::integers;
using accelerate::support::same_bytes;
using ranks::run_processes;

std::string state() {
  const at::Tensor bytes = at::detail::getDefaultCPUGenerator().get_state();
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

std::string text_of(const at::Tensor& ids) {
  std::string text;
  for (const int64_t id : integers(ids)) text += std::to_string(id) + " ";
  return text;
}

const auto kAllEqual = [](const std::vector<std::string>& texts) {
  return std::ranges::all_of(texts, [&](const std::string& text) { return text == texts.front(); });
};

class RandomStates : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(TwoFour, RandomStates, testing::Values(2, 4));

TEST_P(RandomStates, AreEqualByteForByteAfterTheyWereSynchronised) {
  const auto before = run_processes(GetParam(), {}, [](Accelerator&) { return state(); });
  EXPECT_NE(before[0], before[1]) << "each process has a seed of its own";
  const auto after = run_processes(GetParam(), {}, [](Accelerator& accelerator) {
    torch::rand(3 * (accelerator.process_index() + 1));
    torch::randn(1);  // leaves half a pair in the generator
    const std::string own = state();
    accelerator.synchronize_rng_states({"torch"});
    if (accelerator.is_main_process() && state() != own) return std::string("rank 0's own state has changed");
    return state();
  });
  ASSERT_GT(after[0].size(), 1000u) << after[0];
  EXPECT_TRUE(kAllEqual(after));
  EXPECT_NE(after[0], before[0]);
}

TEST_P(RandomStates, APassOverAPreparedLoaderBringsThoseTogetherThatRngTypesNames) {
  const auto begin_pass = [](Accelerator& accelerator) {
    const auto loader = accelerator.prepare(DataLoader(TensorDataset(torch::arange(16)), {.batch_size = 1}));
    torch::rand(accelerator.process_index() + 1);
    for ([[maybe_unused]] auto& batch : loader) return state();
    return std::string("no batch");
  };
  const auto synchronised = run_processes(GetParam(), {.rng_types = {"torch", "generator"}}, begin_pass);
  ASSERT_GT(synchronised[0].size(), 1000u) << synchronised[0];
  EXPECT_TRUE(kAllEqual(synchronised));
  const auto apart = run_processes(GetParam(), {}, begin_pass);
  ASSERT_GT(apart[0].size(), 1000u) << apart[0];
  EXPECT_NE(apart[0], apart[1]) << "by default the processes keep their own, for their dropout";
}

TEST_P(RandomStates, AfterTrainingEachProcessPassesAlone) {
  const AcceleratorOptions options{.dataloader_config = DataLoaderConfiguration{.use_seedable_sampler = false},
                                   .rng_types = {"torch"}};
  const auto texts = run_processes(GetParam(), options, [](Accelerator& accelerator) {
    const auto loader =
        accelerator.prepare(DataLoader(TensorDataset(torch::arange(16)), {.batch_size = 1, .shuffle = true}));
    accelerator.wait_for_everyone();
    accelerator.end_training();
    int64_t batches = 0;
    if (accelerator.is_main_process()) {
      for ([[maybe_unused]] auto& batch : loader) ++batches;
      if (batches != loader.size()) return std::string("other batches");
    }
    return std::string("well");
  });
  EXPECT_THAT(texts, testing::Each("well"));
}

TEST_P(RandomStates, WithoutTheSeedableSamplerAllProcessesHaveTheOrderThatRankZeroDraws) {
  const auto texts = run_processes(
      GetParam(), {.dataloader_config = DataLoaderConfiguration{.use_seedable_sampler = false}},
      [](Accelerator& accelerator) {
        const auto loader =
            accelerator.prepare(DataLoader(TensorDataset(torch::arange(40)), {.batch_size = 2, .shuffle = true}));
        std::string text;
        for (int pass = 0; pass < 2; ++pass) {
          at::Tensor seen = torch::zeros({0}, at::kLong);
          for (auto& [ids] : loader) seen = torch::cat({seen, accelerator.gather(ids)});
          if (!std::get<0>(seen.sort()).equal(torch::arange(40))) return "not every sample once: " + text_of(seen);
          text += text_of(seen) + "|";
        }
        return text;
      });
  EXPECT_TRUE(kAllEqual(texts)) << texts[0] << "\n" << texts[1];
  EXPECT_NE(texts[0].substr(0, texts[0].find('|')), texts[0].substr(texts[0].find('|') + 1)) << "another order";
}

TEST_P(RandomStates, DeviceSpecificSeedsAddTheProcessIndex) {
  const auto draw = [] { return text_of(torch::randint(1'000'000, {3})); };
  const auto same = run_processes(GetParam(), {}, [&](Accelerator& accelerator) {
    accelerator.set_seed(7);
    return draw();
  });
  EXPECT_TRUE(kAllEqual(same));
  const auto own = run_processes(GetParam(), {}, [&](Accelerator& accelerator) {
    accelerator.set_seed(7, {.device_specific = true});
    return draw();
  });
  for (size_t rank = 0; rank < own.size(); ++rank) {
    accelerate::set_seed(7 + rank);
    EXPECT_EQ(own[rank], draw());
  }
}

TEST(RandomStates, AGeneratorOfOnesOwnBecomesRankZeros) {
  accelerate::testing::run_ranks(4, [](const accelerate::testing::Rank& rank) {
    const Accelerator accelerator(rank.options());
    at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(rank.rank()));
    accelerator.synchronize_rng_states({"generator"}, generator);
    EXPECT_TRUE(same_bytes(generator.get_state(), at::detail::createCPUGenerator(0).get_state()));
  });
}

}  // namespace
