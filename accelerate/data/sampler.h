#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace accelerate {

/// The order in which one epoch visits a data set, as global sample indices. It depends on (size, seed, epoch) alone,
/// never on the number of processes or on anything that was drawn before.
std::vector<int64_t> sequential_order(int64_t size);

/// A uniformly drawn permutation of [0, size), the same on every platform and standard library: Fisher-Yates over
/// std::mt19937_64 with Lemire's unbiased bounded draw ("Fast Random Integer Generation in an Interval", 2019).
std::vector<int64_t> shuffled_order(int64_t size, uint64_t seed, int64_t epoch);

/// How an order is cut into batches; integers only.
struct BatchPlan {
  int64_t samples = 0;
  int64_t batch_size = 1;
  bool drop_last = false;

  /// Number of batches in a pass.
  int64_t batches() const;
  /// The part of `order` that batch `index` holds; only the last one may be short.
  std::span<const int64_t> batch(std::span<const int64_t> order, int64_t index) const;
  /// Samples in the last batch when it is short, 0 when all are full, -1 with `drop_last`.
  /// Source: `DataLoaderShard.begin`.
  int64_t remainder() const;
};

}  // namespace accelerate
