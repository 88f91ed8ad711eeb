#pragma once

#include <cstdint>
#include <vector>

namespace accelerate {

/// The order in which one epoch visits a data set, as global sample indices. It depends on (size, seed, epoch) alone,
/// never on the number of processes or on anything that was drawn before.
std::vector<int64_t> sequential_order(int64_t size);

/// A uniformly drawn permutation of [0, size), the same on every platform and standard library: Fisher-Yates over
/// std::mt19937_64 with Lemire's unbiased bounded draw ("Fast Random Integer Generation in an Interval", 2019).
std::vector<int64_t> shuffled_order(int64_t size, uint64_t seed, int64_t epoch);

}  // namespace accelerate
