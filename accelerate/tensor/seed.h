#pragma once

#include <cstdint>

namespace accelerate {

struct SeedOptions {
  bool device_specific = false;  ///< the process index is added; only for `accelerator.set_seed`, which knows it
  bool deterministic = false;    ///< LibTorch computes with deterministic algorithms from now on, or throws
};

/// Seeds the default generators of LibTorch on all devices. Source: `accelerate.utils.set_seed`.
/// Call it before models, data sets and loaders are built: initial weights and shuffling follow from it. Throws
/// UsageError for `device_specific`, since no process is known here.
void set_seed(uint64_t seed, SeedOptions options = {});

}  // namespace accelerate
