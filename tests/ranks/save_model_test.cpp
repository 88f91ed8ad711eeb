// save_model may be called by every rank: one writes, all return with the file in place, or all throw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"
#include "tests/support/throws_error.h"

namespace accelerate {
namespace {

using support::ThrowsError;

class SaveModelOfRanks : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) / ("save_ranks_" + std::to_string(GetParam()));
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};
INSTANTIATE_TEST_SUITE_P(Ranks, SaveModelOfRanks, ::testing::Values(1, 2, 4));

TEST_P(SaveModelOfRanks, EveryRankReadsBackWhatRankZeroHasTheMomentItReturns) {
  testing::run_ranks(GetParam(), [&](const testing::Rank& rank) {
    Accelerator accelerator(rank.options());
    torch::nn::Linear net(3, 2);
    auto model = accelerator.prepare(net);
    accelerator.save_model(model, folder_.string());
    EXPECT_TRUE(std::filesystem::exists(folder_ / "model.safetensors"));
    torch::nn::Linear other(3, 2);
    auto restored = accelerator.prepare(other);
    const auto keys = accelerator.load_model(restored, folder_.string(), {.strict = true});
    EXPECT_TRUE(keys.missing_keys.empty() && keys.unexpected_keys.empty());
    EXPECT_TRUE(torch::equal(other->weight, net->weight));
    EXPECT_TRUE(torch::equal(other->bias, net->bias));
  });
}

TEST_P(SaveModelOfRanks, WhenTheDiskRefusesEveryRankThrowsAndGoesOn) {
  std::atomic<int64_t> thrown = 0;
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "file") << "in the way";
  testing::run_ranks(GetParam(), [&](const testing::Rank& rank) {
    Accelerator accelerator(rank.options());
    auto model = accelerator.prepare(torch::nn::Linear(3, 2));
    try {
      accelerator.save_model(model, (folder_ / "file").string());
    } catch (const DataError& error) {
      ++thrown;
      if (rank.rank() > 0) {
        EXPECT_THAT(error.what(), ::testing::HasSubstr("Rank 0 could not write the file"));
      }
    }
    accelerator.save_model(model, (folder_ / "good").string());
  });
  EXPECT_EQ(thrown, GetParam());
  EXPECT_TRUE(std::filesystem::exists(folder_ / "good" / "model.safetensors"));
}

}  // namespace
}  // namespace accelerate
