// Threads that call the data set: who they are, when they end, and options that make no sense.
#include <gtest/gtest.h>
#include <pthread.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "accelerate/accelerate.h"
#include "tests/support/tensors.h"
#include "tests/support/throws_error.h"

namespace {

using accelerate::Accelerator;
using accelerate::ConfigError;
using accelerate::DataLoader;
using accelerate::DataLoaderOptions;
using accelerate::TensorDataset;
using accelerate::support::integers;
using accelerate::support::ThrowsError;
using Numbers = std::vector<int64_t>;

/// What the data set's function sees, whoever calls it.
struct Seen {
  std::mutex mutex;
  std::condition_variable changed;
  std::set<std::thread::id> threads;
  std::set<std::string> names;
  int64_t inside = 0, most_inside = 0;
  bool grad = false, inference = false;
};

/// `together` calls wait for each other, so that so many have to be made at one time.
struct Watched {
  int64_t count;
  int64_t together = 1;
  std::shared_ptr<Seen> seen = std::make_shared<Seen>();

  int64_t size() const { return count; }
  at::Tensor get(int64_t index) const {
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    std::unique_lock lock(seen->mutex);
    seen->threads.insert(std::this_thread::get_id());
    seen->names.insert(name);
    seen->grad = at::GradMode::is_enabled();
    seen->inference = c10::InferenceMode::is_enabled();
    seen->most_inside = std::max(seen->most_inside, ++seen->inside);
    seen->changed.notify_all();
    if (index < together) seen->changed.wait(lock, [&] { return seen->most_inside >= together; });
    --seen->inside;
    return at::scalar_tensor(index, at::kLong);
  }
};

/// Threads of this process with that name.
int64_t threads_called(const std::string& wanted) {
  int64_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    if (std::getline(file, name) && name == wanted) ++count;
  }
  return count;
}

/// They name themselves, which takes them a moment.
bool become(int64_t expected) {
  for (int tries = 0; tries < 10'000 && threads_called("accelerate-data") != expected; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return threads_called("accelerate-data") == expected;
}

Numbers all(const DataLoader<at::Tensor>& loader) {
  Numbers numbers;
  for (auto& batch : loader) {
    for (const int64_t number : integers(batch)) numbers.push_back(number);
  }
  return numbers;
}

Numbers up_to(int64_t end) { return integers(at::arange(end)); }

TEST(LoaderWorkers, AsManyCallTheDataSetAtOnceAndTheyHaveAName) {
  const Watched data{.count = 12, .together = 3};
  EXPECT_EQ(all(DataLoader(data, {.num_workers = 3})), up_to(12));
  EXPECT_EQ(data.seen->most_inside, 3);
  EXPECT_EQ(data.seen->names, (std::set<std::string>{"accelerate-data"}));
  EXPECT_FALSE(data.seen->threads.contains(std::this_thread::get_id()));
}

TEST(LoaderWorkers, WithoutThemTheLoopsOwnThreadDoes) {
  const Watched data{.count = 5};
  EXPECT_EQ(all(DataLoader(data, {.batch_size = 2})), up_to(5));
  EXPECT_EQ(data.seen->threads, (std::set<std::thread::id>{std::this_thread::get_id()}));
}

TEST(LoaderWorkers, EndWithTheirPass) {
  const auto loader = DataLoader(Watched{.count = 40}, {.num_workers = 2});
  {
    auto pass = loader.begin();
    EXPECT_TRUE(become(2));
    {
      auto another = loader.begin();
      EXPECT_TRUE(become(4));
    }
    EXPECT_EQ(threads_called("accelerate-data"), 2);
    while (pass != loader.end()) ++pass;
    EXPECT_EQ(threads_called("accelerate-data"), 0) << "at the last batch, not when the iterator goes";
  }
  for (auto& batch : loader) {
    static_cast<void>(batch);
    break;
  }
  EXPECT_EQ(threads_called("accelerate-data"), 0);
}

TEST(LoaderWorkers, APassThatIsBrokenOffLeavesTheNextOneWhole) {
  Accelerator accelerator({.cpu = true});
  const auto loader =
      accelerator.prepare(DataLoader(Watched{.count = 20}, {.batch_size = 2, .num_workers = 3, .prefetch_factor = 4}));
  for (int64_t kept = 1; kept < 8; ++kept) {
    int64_t seen = 0;
    for (auto& batch : loader) {
      EXPECT_EQ(integers(batch), (Numbers{2 * seen, 2 * seen + 1}));
      if (++seen == kept) break;
    }
    EXPECT_EQ(all(loader), up_to(20));
  }
}

TEST(LoaderWorkers, LoadersAndPassesGoOnSideBySide) {
  Accelerator accelerator({.cpu = true});
  const DataLoaderOptions options{.batch_size = 3, .num_workers = 2};
  auto [first, second] =
      accelerator.prepare(DataLoader(Watched{.count = 30}, options), DataLoader(Watched{.count = 21}, options));
  auto a = first.begin(), b = second.begin(), c = first.begin();
  for (int64_t batch = 0; batch < 7; ++batch, ++a, ++b, ++c) {
    const Numbers expected{3 * batch, 3 * batch + 1, 3 * batch + 2};
    EXPECT_EQ(integers(*a), expected);
    EXPECT_EQ(integers(*b), expected);
    EXPECT_EQ(integers(*c), expected);
  }
  EXPECT_TRUE(b == second.end());
  EXPECT_FALSE(a == first.end());
}

TEST(LoaderWorkers, AreInTheModesOfTheLoop) {
  const Watched data{.count = 4};
  const auto loader = DataLoader(data, {.num_workers = 1});
  all(loader);
  EXPECT_TRUE(data.seen->grad);
  {
    const torch::NoGradGuard evaluating;
    all(loader);
    EXPECT_FALSE(data.seen->grad);
    EXPECT_FALSE(data.seen->inference);
  }
  const c10::InferenceMode inferring;
  all(loader);
  EXPECT_TRUE(data.seen->inference);
}

TEST(LoaderWorkers, ADataSetOfBatchesIsAskedForBatches) {
  const auto loader =
      DataLoader(TensorDataset(at::arange(100)), {.batch_size = 7, .num_workers = 3, .prefetch_factor = 1});
  Numbers numbers;
  for (auto& [batch] : loader) {
    for (const int64_t number : integers(batch)) numbers.push_back(number);
  }
  EXPECT_EQ(numbers, up_to(100));
}

TEST(LoaderWorkers, WhatMakesNoSenseIsRefused) {
  const auto loader = [](DataLoaderOptions options) { DataLoader(Watched{.count = 4}, options); };
  EXPECT_THAT([&] { loader({.num_workers = -1}); },
              ThrowsError<ConfigError>({.place = "DataLoader",
                                        .what = "The number of workers is negative",
                                        .got = ".num_workers = -1",
                                        .expected = "0 or more",
                                        .remedy = "DataLoaderOptions::num_workers"}));
  EXPECT_THAT([&] { loader({.prefetch_factor = 2}); },
              ThrowsError<ConfigError>({.place = "DataLoader",
                                        .what = "Nobody makes batches ahead",
                                        .got = ".prefetch_factor = 2 without .num_workers",
                                        .expected = "workers",
                                        .remedy = "leave out .prefetch_factor"}));
  EXPECT_THAT([&] { loader({.num_workers = 1, .prefetch_factor = 0}); },
              ThrowsError<ConfigError>({.place = "DataLoader",
                                        .what = "The workers may make no batch",
                                        .got = ".prefetch_factor = 0",
                                        .expected = "1 or more",
                                        .remedy = "leave it out"}));
}

TEST(LoaderWorkers, PinnedMemoryMeansNothingOnTheCpu) {
  Accelerator accelerator({.cpu = true});
  const auto loader = accelerator.prepare(DataLoader(Watched{.count = 4}, {.pin_memory = true}));
  if (torch::cuda::is_available()) GTEST_SKIP() << "there is a GPU to pin for";
  EXPECT_EQ(all(loader), up_to(4));
}

}  // namespace
