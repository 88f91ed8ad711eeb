#include "tests/ranks/shm_ranks.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "tests/support/read_all.h"
#include "tests/support/temporary_folder.h"

namespace accelerate::ranks_test {
namespace {

std::string run_rank(const c10::intrusive_ptr<c10d::Store>& store, int rank, int ranks, const RankFunction& function,
                     const RankSetting& setting) {
  try {
    const auto made = shm_entry().make({.store = store,
                                        .rank = rank,
                                        .size = ranks,
                                        .timeout = setting.timeout,
                                        .device = c10::Device(c10::kCPU),
                                        .group = "test",
                                        .lost = setting.lost});
    if (!made.backend) return "refused: " + made.refusal;
    return function(*made.backend, rank);
  } catch (const std::exception& error) {
    return std::string("[thrown] ") + error.what();
  }
}

}  // namespace

const internal::BackendEntry& shm_entry() {
  static const std::vector<internal::BackendEntry> entries = internal::builtin_backends();
  const auto found =
      std::find_if(entries.begin(), entries.end(), [](const auto& entry) { return entry.name == "shm"; });
  if (found == entries.end()) throw std::logic_error("there is no backend shm");
  return *found;
}

std::vector<std::string> run_threads(int ranks, const RankFunction& function, const RankSetting& setting) {
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::string> texts(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] { texts[rank] = run_rank(store, rank, ranks, function, setting); });
  }
  for (std::thread& thread : threads) thread.join();
  return texts;
}

std::vector<Ended> run_processes(int ranks, const RankFunction& function, const RankSetting& setting) {
  const support::TemporaryFolder folder;
  const std::string path = (folder.path() / "store").string();
  std::map<pid_t, int> running;
  std::vector<int> pipes;
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
    const pid_t pid = ::fork();
    if (pid == 0) {
      const std::string text =
          run_rank(c10::make_intrusive<c10d::FileStore>(path, ranks), rank, ranks, function, setting);
      const bool written = ::write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
      ::_exit(written ? 0 : 1);
    }
    ::close(ends[1]);
    running.emplace(pid, rank);
    pipes.push_back(ends[0]);
  }
  std::vector<Ended> ended(ranks);
  size_t stopped = 0;
  while (!running.empty()) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WUNTRACED);
    if (!running.contains(pid)) continue;
    if (WIFSTOPPED(status)) {
      ++stopped;
    } else {
      if (WIFSIGNALED(status)) ended[running[pid]].signal = WTERMSIG(status);
      running.erase(pid);
    }
    if (running.size() == stopped) {
      for (const auto& [other, rank] : running) ::kill(other, SIGKILL);
    }
  }
  for (int rank = 0; rank < ranks; ++rank) ended[rank].text = support::read_all(pipes[rank]);
  return ended;
}

}  // namespace accelerate::ranks_test
