// accelerate::launch: copies of this very process, which has one thread and no LibTorch.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "accelerate/core/env.h"
#include "accelerate/launch.h"
#include "accelerate/launch/forkable.h"
#include "tests/support/throws_error.h"

namespace accelerate::internal::launch {
namespace {

using namespace std::chrono_literals;
using support::ThrowsError;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Property;
using ::testing::Throws;

constexpr int kMost = 8;

/// Memory that copies share.
struct Board {
  std::array<std::atomic<int>, kMost> visits;
  std::array<std::atomic<pid_t>, kMost> ids;
  std::array<std::array<char, 64>, kMost> texts;
};

class Shared {
 public:
  Shared()
      : board_(static_cast<Board*>(
            ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Shared() { ::munmap(board_, sizeof(Board)); }
  Board* operator->() const { return board_; }

 private:
  Board* board_;
};

int rank() { return static_cast<int>(Environment::of_process().integer("RANK").value_or(0)); }

/// What a rank of a launch gets to see.
std::optional<std::string> variable(const char* name) { return Environment::of_process().text(name); }

class Forked : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
    EXPECT_EQ(errno, ECHILD);
  }
  bool alive(pid_t id) const { return ::kill(id, 0) == 0; }
  Shared board_;
};

TEST_F(Forked, EveryRankRunsTheFunctionWithItsPlaceInTheEnvironment) {
  const pid_t parent = ::getpid();
  accelerate::launch(
      [&] {
        const auto mine = static_cast<size_t>(rank());
        ++board_->visits[mine];
        board_->ids[mine] = ::getpid();
        const std::string text = *variable("LOCAL_RANK") + " " + *variable("WORLD_SIZE") + " " +
                                 *variable("LOCAL_WORLD_SIZE") + " " + *variable("MASTER_ADDR") + " " +
                                 *variable("ACCELERATE_MIXED_PRECISION") + " " + *variable("ACCELERATE_USE_CPU") + " " +
                                 *variable("FORK_LAUNCHED");
        text.copy(board_->texts[mine].data(), 63);
        if (::getppid() != parent || *variable("MASTER_PORT") == "0") throw std::runtime_error("not as it should be");
      },
      {.num_processes = 3, .mixed_precision = "bf16", .cpu = true});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(board_->visits[i], 1);
    EXPECT_EQ(std::string(board_->texts[i].data()), std::to_string(i) + " 3 3 127.0.0.1 bf16 true 1");
    EXPECT_NE(board_->ids[i], parent);
    EXPECT_FALSE(alive(board_->ids[i]));
  }
  EXPECT_FALSE(variable("RANK")) << "this process's own environment is as it was";
}

TEST_F(Forked, OneProcessRunsInPlace) {
  int changed = 0;
  accelerate::launch(
      [&] {
        changed = ::getpid();
        EXPECT_EQ(variable("ACCELERATE_MIXED_PRECISION"), "bf16");
        EXPECT_FALSE(variable("RANK"));
      },
      {.num_processes = 1, .mixed_precision = "bf16"});
  EXPECT_EQ(changed, ::getpid());
  EXPECT_FALSE(variable("ACCELERATE_MIXED_PRECISION"));
  EXPECT_THROW(accelerate::launch([] { throw std::out_of_range("passes"); }, {.num_processes = 1}), std::out_of_range);
  // A device in this process's own environment would go before ACCELERATE_USE_CPU.
  const EnvironmentScope gpu = patch_environment({{"ACCELERATE_TORCH_DEVICE", "cuda"}});
  accelerate::launch([&] { EXPECT_EQ(variable("ACCELERATE_TORCH_DEVICE"), "cpu"); }, {.num_processes = 1, .cpu = true});
  EXPECT_EQ(variable("ACCELERATE_TORCH_DEVICE"), "cuda");
}

TEST_F(Forked, SeveralNodesShareTheRanksOut) {
  accelerate::launch(
      [&] {
        const std::string text = *variable("RANK") + " " + *variable("LOCAL_RANK") + " " + *variable("WORLD_SIZE") +
                                 " " + *variable("MASTER_ADDR") + ":" + *variable("MASTER_PORT");
        text.copy(board_->texts[static_cast<size_t>(rank())].data(), 63);
      },
      {.num_processes = 2, .cpu = true, .use_port = 29'544, .master_addr = "node0", .num_nodes = 2, .node_rank = 1});
  EXPECT_EQ(std::string(board_->texts[2].data()), "2 0 4 node0:29544");
  EXPECT_EQ(std::string(board_->texts[3].data()), "3 1 4 node0:29544");
}

TEST_F(Forked, TheExceptionOfARankComesHomeWithItsRankAndText) {
  const auto failing = [] {
    accelerate::launch(
        [] {
          if (rank() == 2) throw std::runtime_error("this rank's own trouble");
        },
        {.num_processes = 4, .cpu = true});
  };
  EXPECT_THAT(failing, ThrowsError<RankError>({.place = "launch",
                                               .what = "Rank 2 of 4 threw an exception",
                                               .got = "\"this rank's own trouble\"",
                                               .expected = "every rank to return",
                                               .remedy = "The other ranks returned"}));
  EXPECT_THAT(failing, Throws<RankError>(Property(&RankError::rank, 2)));
  const std::string text(200'000, 'x');
  EXPECT_THAT([&] { accelerate::launch([&] { throw std::runtime_error(text); }, {.num_processes = 2, .cpu = true}); },
              Throws<RankError>(Property(&RankError::what, HasSubstr(text))));
  EXPECT_THAT([&] { accelerate::launch([&] { throw 3; }, {.num_processes = 2, .cpu = true}); },
              Throws<RankError>(Property(&RankError::what, HasSubstr("no std::exception"))));
}

// A rank that lost another one may be through first; it is not the one to look at.
TEST_F(Forked, TheRankThatOthersFailedBecauseOfIsNamed) {
  EXPECT_THAT(
      [] {
        accelerate::launch(
            [] {
              if (rank() != 1) throw CommError({.place = "all_reduce", .what = "Rank 1 has left"});
              ::usleep(300'000);
              throw std::runtime_error("the root of it");
            },
            {.num_processes = 3, .cpu = true});
      },
      ThrowsError<RankError>({.place = "launch",
                              .what = "Rank 1 of 3 threw",
                              .got = "the root of it",
                              .expected = "return",
                              .remedy = "After it failed rank "}));
}

TEST_F(Forked, ARankThatASignalEndsOrThatExitsIsNamed) {
  EXPECT_THAT(
      [] {
        accelerate::launch(
            [] {
              if (rank() == 1) ::raise(SIGKILL);
            },
            {.num_processes = 2, .cpu = true});
      },
      ThrowsError<RankError>({.place = "launch",
                              .what = "Rank 1 of 2 ended before it returned",
                              .got = "SIGKILL (Killed)",
                              .expected = "return",
                              .remedy = "The other ranks returned"}));
  EXPECT_THAT(
      [] {
        accelerate::launch(
            [] {
              if (rank() == 0) ::_exit(7);
            },
            {.num_processes = 2, .cpu = true});
      },
      ThrowsError<RankError>({.place = "launch",
                              .what = "Rank 0 of 2 ended before it returned",
                              .got = "exit code 7",
                              .expected = "return",
                              .remedy = "The other ranks returned"}));
  accelerate::launch([] { ::_exit(0); }, {.num_processes = 2, .cpu = true});
}

TEST_F(Forked, AfterAFailureThoseThatHangAreEnded) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(
      [&] {
        accelerate::launch(
            [&] {
              board_->ids[static_cast<size_t>(rank())] = ::getpid();
              if (rank() == 0) throw std::runtime_error("first");
              if (rank() == 2) ::signal(SIGTERM, SIG_IGN);
              while (true) ::pause();
            },
            {.num_processes = 3, .cpu = true, .grace_period = 200ms});
      },
      ThrowsError<RankError>({.place = "launch",
                              .what = "Rank 0 of 3 threw an exception",
                              .got = "first",
                              .expected = "return",
                              .remedy = "After it failed rank 1, rank 2"}));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(alive(board_->ids[i]));
}

TEST_F(Forked, AFailureIsNotHiddenByTheTimeoutOfThoseItLeftHanging) {
  EXPECT_THAT(
      [&] {
        accelerate::launch(
            [&] {
              if (rank() == 0) throw std::runtime_error("first");
              while (true) ::pause();
            },
            {.num_processes = 2, .cpu = true, .timeout = 200ms, .grace_period = 400ms});
      },
      Throws<RankError>(Property(&RankError::what, HasSubstr("Rank 0 of 2 threw an exception: got \"first\""))));
}

TEST_F(Forked, ATimeoutNamesWhoWasLate) {
  EXPECT_THAT(
      [&] {
        accelerate::launch(
            [&] {
              while (rank() != 1) ::pause();
            },
            {.num_processes = 3, .cpu = true, .timeout = 300ms, .grace_period = 100ms});
      },
      ThrowsError<RankError>({.place = "launch",
                              .what = "Not every rank has returned in time",
                              .got = "rank 0, rank 2 after 300 ms",
                              .expected = "all of them",
                              .remedy = ".timeout"}));
}

// The process that launches is a copy itself here, so that it can be killed.
TEST_F(Forked, RanksEndWithTheProcessThatLaunchedThem) {
  const pid_t launcher = ::fork();
  if (launcher == 0) {
    accelerate::launch(
        [&] {
          board_->ids[static_cast<size_t>(rank())] = ::getpid();
          while (true) ::pause();
        },
        {.num_processes = 2, .cpu = true});
    ::_exit(0);
  }
  while (board_->ids[0] == 0 || board_->ids[1] == 0) ::usleep(10'000);
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  const auto end = std::chrono::steady_clock::now() + 10s;
  const auto gone = [&](pid_t id) {
    // Whoever takes over orphans here may not look after them: a zombie is gone.
    std::ifstream stat("/proc/" + std::to_string(id) + "/stat");
    std::string number, name, state;
    return !(stat >> number >> name >> state) || state == "Z";
  };
  while ((!gone(board_->ids[0]) || !gone(board_->ids[1])) && std::chrono::steady_clock::now() < end) ::usleep(10'000);
  EXPECT_TRUE(gone(board_->ids[0]) && gone(board_->ids[1]));
}

TEST_F(Forked, WhatWaitsInABufferIsWrittenOnceAndWhatRanksPrintIsNotLost) {
  ::testing::internal::CaptureStdout();
  std::printf("before ");
  std::cout << "and ";
  accelerate::launch([] { std::printf("rank "); }, {.num_processes = 2, .cpu = true});
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "before and rank rank ");
}

TEST_F(Forked, OnlyTheFirstRankHasTheInput) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "xyz", 3), 3);
  ::close(ends[1]);
  const int before = ::dup(STDIN_FILENO);
  ::dup2(ends[0], STDIN_FILENO);
  accelerate::launch(
      [&] {
        char byte = 0;
        while (::read(STDIN_FILENO, &byte, 1) == 1) ++board_->visits[static_cast<size_t>(rank())];
      },
      {.num_processes = 2, .cpu = true});
  ::dup2(before, STDIN_FILENO);
  ::close(before);
  ::close(ends[0]);
  EXPECT_EQ(board_->visits[0], 3);
  EXPECT_EQ(board_->visits[1], 0);
}

TEST_F(Forked, AThreadIsAReasonNotToFork) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::thread thread([&] {
    pthread_setname_np(pthread_self(), "worker");
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
  });
  while (other_threads() != std::vector<std::string>{"worker"}) ::usleep(1000);
  EXPECT_THAT([] { accelerate::launch([] {}, {.num_processes = 2, .cpu = true}); },
              ThrowsError<ConfigError>({.place = "launch",
                                        .what = "Other threads run",
                                        .got = "1 besides this one (worker)",
                                        .expected = "none",
                                        .remedy = "first thing in main()"}));
  {
    const std::lock_guard lock(mutex);
    done = true;
  }
  changed.notify_all();
  thread.join();
  EXPECT_TRUE(other_threads().empty());
  EXPECT_FALSE(uses_gpu());
}

TEST_F(Forked, ARankDoesNotLaunch) {
  const Environment launched({{"RANK", "1"}, {"WORLD_SIZE", "2"}});
  EXPECT_THAT([&] { require_forkable(launched); }, ThrowsError<ConfigError>({.place = "launch",
                                                                             .what = "a rank already",
                                                                             .got = "RANK=1, WORLD_SIZE=2",
                                                                             .expected = "no launcher",
                                                                             .remedy = "Call the function itself"}));
  for (const int64_t processes : {1, 2}) {
    EXPECT_THAT(
        [&] {
          accelerate::launch([&] { accelerate::launch([] {}, {.num_processes = processes, .cpu = true}); },
                             {.num_processes = 2, .cpu = true});
        },
        Throws<RankError>(Property(&RankError::what, HasSubstr("This process is a rank already"))));
  }
}

TEST_F(Forked, APortInUseIsRefusedInTheWordsOfLaunch) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(socket, 1), 0);
  ASSERT_EQ(::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const uint16_t port = ntohs(address.sin_port);
  EXPECT_THAT([&] { accelerate::launch([] {}, {.num_processes = 2, .cpu = true, .use_port = port}); },
              ThrowsError<ConfigError>({.place = "launch",
                                        .what = "in use",
                                        .got = std::to_string(port),
                                        .expected = "a free one",
                                        .remedy = ".use_port"}));
  ::close(socket);
}

TEST_F(Forked, OptionsThatCannotBeMetAreRefused) {
  const auto refused = [](const accelerate::LaunchOptions& options, const char* got, const char* expected) {
    EXPECT_THAT([&] { accelerate::launch([] {}, options); },
                Throws<ConfigError>(Property(
                    &ConfigError::what, AllOf(HasSubstr("[launch] The number"), HasSubstr(got), HasSubstr(expected)))));
  };
  refused({}, "options without .num_processes", "expected it");
  refused({.num_processes = 0}, ".num_processes = 0", "1 or more");
  refused({.num_processes = 2, .num_nodes = 0}, ".num_nodes = 0", "1 or more");
  refused({.num_processes = 2, .num_nodes = 2, .node_rank = 2}, ".node_rank = 2", "0 to 1");
  refused({.num_processes = 2, .num_nodes = 2}, ".use_port = 0", "all nodes");
  refused({.num_processes = 2, .timeout = 0ms}, ".timeout = 0 ms", "1 ms or more");
  refused({.num_processes = 2, .grace_period = -1ms}, ".grace_period = -1 ms", "0 ms or more");
}

}  // namespace
}  // namespace accelerate::internal::launch
