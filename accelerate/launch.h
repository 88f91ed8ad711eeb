#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate {

/// How `launch` starts ranks. Source: `accelerate.notebook_launcher`, `accelerate.debug_launcher`.
struct LaunchOptions {
  std::optional<int64_t> num_processes = {};              ///< of this machine; has to be given
  std::optional<std::string> mixed_precision = {};        ///< of Accelerators that do not say
  bool cpu = false;                                       ///< train on the CPU although there are GPUs
  uint16_t use_port = 0;                                  ///< where the ranks meet; 0: a free one
  std::string master_addr = "127.0.0.1";                  ///< of node 0
  int64_t num_nodes = 1;                                  ///< each of them calls `launch`, with the same port
  int64_t node_rank = 0;                                  ///< this machine's
  std::optional<std::chrono::milliseconds> timeout = {};  ///< of the whole; unset: as long as it takes
  /// After one rank failed: until the others get SIGTERM, and again until SIGKILL.
  std::chrono::milliseconds grace_period = std::chrono::seconds(5);
};

/// A rank of `launch` that did not return: what it threw, or how it ended.
class RankError : public Error {
 public:
  RankError(int64_t rank, ErrorText text) : Error(std::move(text)), rank_(rank) {}
  int64_t rank() const { return rank_; }

 private:
  int64_t rank_;
};

namespace internal {
void launch_ranks(const std::function<void()>& function, const LaunchOptions& options);
}

/// Runs `function` in `num_processes` copies of this process, each of them one rank, and returns when all have
/// returned: build the Accelerator inside of it. What it captures it has as a copy, and what it changes in memory is
/// lost with the copy. One process runs it in place. Rank 0 has this process's standard input.
///
/// Copies are made by fork(), which takes the calling thread alone along: call it first thing, before LibTorch has
/// started threads or touched a GPU. Throws ConfigError where that has happened, naming the threads, in a process that
/// is a rank already, and for options that cannot be met; RankError for the rank that failed first, once no other is
/// left, with the text of its exception. When this process ends in whatever way, the kernel ends the ranks.
template <class F>
void launch(F&& function, const LaunchOptions& options = {}) {
  internal::launch_ranks([&] { static_cast<void>(function()); }, options);
}

}  // namespace accelerate
