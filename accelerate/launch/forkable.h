#pragma once

#include <string>
#include <vector>

#include "accelerate/core/env.h"

namespace accelerate::internal::launch {

/// Names of this process's threads besides the one that calls.
std::vector<std::string> other_threads();

/// Whether CUDA is in use here: a driver that has started has its device files open, and no copy of the process can use
/// it.
bool uses_gpu();

/// Throws ConfigError in a rank of another launch.
void require_no_rank(const Environment& environment);

/// Throws ConfigError unless a copy of this process that has the calling thread alone would work: with no other thread,
/// no GPU in use, and not as a rank of another launch.
void require_forkable(const Environment& environment);

}  // namespace accelerate::internal::launch
