// A rank is lost: what exchanges nothing, an optimizer's step or a file, ends as well. Its tensors may be what an
// aborted exchange left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <chrono>
#include <filesystem>
#include <string>
#include <tuple>

#include "accelerate/accelerate.h"
#include "accelerate/testing/ranks.h"

namespace {

using accelerate::Accelerator;
using accelerate::CommError;
using accelerate::testing::Rank;

const std::string kLost = "Rank 7 is lost: the test says so";

/// Tells all ranks what their heartbeats would find.
void tell_lost(const Rank& rank) {
  const auto store = c10::static_intrusive_pointer_cast<c10d::Store>(rank.options().store.object());
  const auto run = c10::make_intrusive<c10d::PrefixStore>("accelerate", store);
  c10d::PrefixStore own("1", run);
  const int64_t count = own.add("lost", 1);
  static_cast<c10d::Store&>(own).set("lost/" + std::to_string(count), kLost);
}

/// What `call` throws as a CommError, or "" if it never does.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

TEST(LostRank, EndsStepsAndFilesThatExchangeNothing) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "lost_rank";
  std::filesystem::remove_all(folder);
  accelerate::testing::run_ranks(2, [&](const Rank& rank) {
    Accelerator accelerator(rank.options());
    torch::nn::Linear net(3, 2);
    torch::optim::SGD sgd(net->parameters(), 0.1);
    auto prepared = accelerator.prepare(net, sgd);
    auto& model = std::get<0>(prepared);
    auto& optimizer = std::get<1>(prepared);
    {
      auto window = accelerator.accumulate(model);
      optimizer.step();
    }
    accelerator.wait_for_everyone();
    if (rank.rank() == 1) tell_lost(rank);
    const std::string stepped = error_of([&] {
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
      while (std::chrono::steady_clock::now() < deadline) {
        auto window = accelerator.accumulate(model);
        optimizer.step();
      }
    });
    EXPECT_THAT(stepped, testing::StartsWith("[optimizer.step] " + kLost)) << rank.rank();
    EXPECT_THAT(error_of([&] { accelerator.save_model(model, folder.string()); }), testing::HasSubstr(kLost))
        << rank.rank();
  });
  EXPECT_FALSE(std::filesystem::exists(folder / "model.safetensors"));
  std::filesystem::remove_all(folder);
}

}  // namespace
