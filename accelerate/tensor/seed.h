#pragma once

#include <cstdint>

namespace accelerate {

/// Seeds the default generators of LibTorch on all devices. Source: `accelerate.utils.set_seed`.
/// Call it before models, data sets and loaders are built: initial weights and shuffling follow from it.
void set_seed(uint64_t seed);

}  // namespace accelerate
