// A trace for each rank. LibTorch records one profile a process, so that these ranks are processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include "accelerate/accelerate.h"
#include "tests/support/temporary_folder.h"

namespace accelerate {
namespace {

using support::TemporaryFolder;
using ::testing::HasSubstr;

/// Forks `ranks` processes that run `body` and write what it returns into `<folder>/<rank>.txt`.
void run_processes(int64_t ranks, const TemporaryFolder& folder,
                   const std::function<std::string(Accelerator&, int64_t rank)>& body) {
  std::vector<pid_t> running;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      std::string text;
      try {
        const World world{.rank = rank, .size = ranks, .local_rank = rank, .local_size = ranks};
        Accelerator accelerator(
            {.cpu = true, .world = world, .store = c10::make_intrusive<c10d::FileStore>(folder / "store", ranks)});
        text = body(accelerator, rank);
      } catch (const std::exception& error) {
        text = std::string("thrown: ") + error.what();
      }
      std::ofstream(folder / (std::to_string(rank) + ".txt")) << text;
      ::_exit(0);
    }
    running.push_back(pid);
  }
  for (const pid_t pid : running) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  }
}

std::string told(const TemporaryFolder& folder, int64_t rank) {
  return support::read_text(folder / (std::to_string(rank) + ".txt"));
}

class ProfileOfRanks : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Ranks, ProfileOfRanks, ::testing::Values(1, 2, 4));

TEST_P(ProfileOfRanks, EachWritesItsOwnAndAllAreThereWhenOneReturns) {
  const TemporaryFolder folder;
  const std::string out = folder / "trace";
  run_processes(GetParam(), folder, [&](Accelerator& accelerator, int64_t rank) {
    auto profiler = accelerator.profile({.output_trace_dir = out});
    const at::Tensor row = torch::full({3}, rank, torch::kFloat);
    for (int64_t i = 0; i <= rank; ++i) row.cosh();
    accelerator.reduce(row);
    profiler.finish();
    int64_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(out)) files += entry.path().extension() == ".json";
    return std::to_string(files);
  });
  for (int64_t rank = 0; rank < GetParam(); ++rank) {
    EXPECT_EQ(told(folder, rank), std::to_string(GetParam())) << "rank " << rank;
    const auto trace = nlohmann::json::parse(support::read_text(out + "/profile_" + std::to_string(rank) + ".json"));
    EXPECT_EQ(trace.at("distributedInfo").at("rank"), rank);
    EXPECT_EQ(trace.at("distributedInfo").at("world_size"), GetParam());
    int64_t calls = 0;
    for (const auto& event : trace.at("traceEvents")) calls += event.value("name", "") == "aten::cosh";
    EXPECT_EQ(calls, rank + 1) << "what this rank computed";
  }
}

TEST(ProfileOfTwo, OneWhoseCallbackThrowsThrowsAndTheOtherGoesOn) {
  const TemporaryFolder folder;
  run_processes(2, folder, [&](Accelerator& accelerator, int64_t rank) -> std::string {
    auto profiler = accelerator.profile({.on_trace_ready =
                                             [rank](Profiler&) {
                                               if (rank == 0) throw std::runtime_error("of mine");
                                             },
                                         .output_trace_dir = folder / "trace"});
    std::string text = "finished";
    try {
      profiler.finish();
    } catch (const std::runtime_error& error) {
      text = error.what();
    }
    accelerator.wait_for_everyone();
    return text;
  });
  EXPECT_EQ(told(folder, 0), "of mine");
  EXPECT_EQ(told(folder, 1), "finished");
  EXPECT_TRUE(std::filesystem::exists(folder / "trace/profile_1.json"));
}

TEST(ProfileOfTwo, OneThatCannotWriteThrowsAndTheOtherGoesOn) {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "in the way";
  run_processes(2, folder, [&](Accelerator& accelerator, int64_t rank) -> std::string {
    auto profiler = accelerator.profile({.output_trace_dir = folder / (rank == 0 ? "file" : "trace")});
    try {
      profiler.finish();
    } catch (const DataError& error) {
      return error.what();
    }
    return "finished";
  });
  EXPECT_THAT(told(folder, 0), HasSubstr("The trace cannot be written"));
  EXPECT_EQ(told(folder, 1), "finished");
  EXPECT_TRUE(std::filesystem::exists(folder / "trace/profile_1.json"));
}

}  // namespace
}  // namespace accelerate
