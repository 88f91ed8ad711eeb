#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "accelerate/comm/group.h"
#include "accelerate/options.h"

namespace accelerate::testing {

/// One rank of several that are threads of this process.
class Rank {
 public:
  Rank(World world, StoreHandle store, std::optional<std::string> backend)
      : world_(world), store_(std::move(store)), backend_(std::move(backend)) {}
  int64_t rank() const { return world_.rank; }
  int64_t size() const { return world_.size; }
  /// `options` for an Accelerator of this rank.
  AcceleratorOptions options(AcceleratorOptions options = {}) const;
  /// A group of these ranks, connected anew.
  Group group() const;

 private:
  World world_;
  StoreHandle store_;
  std::optional<std::string> backend_;
};

struct RunRanksOptions {
  std::optional<std::string> backend = {};  ///< "gloo", "shm"; unset: what a program would get
};

/// Calls `body` in `size` threads, each of them one rank, over a store in memory, and returns when all have returned.
/// What a rank throws is thrown here: of several the first to throw. Randomness is the threads' own business:
/// `at::manual_seed` seeds the one generator of the process.
void run_ranks(int64_t size, const std::function<void(const Rank&)>& body, RunRanksOptions options = {});

}  // namespace accelerate::testing
