#include "accelerate/tensor/seed.h"

#include <ATen/Context.h>

#include "accelerate/core/error.h"

namespace accelerate {

void set_seed(uint64_t seed, SeedOptions options) {
  if (options.device_specific) {
    throw UsageError({.place = "set_seed",
                      .what = "The process is not known here",
                      .got = ".device_specific = true",
                      .expected = "a call on an Accelerator, which knows its process index",
                      .remedy = "Write accelerator.set_seed(seed, {.device_specific = true})"});
  }
  at::manual_seed(seed);
  if (options.deterministic) at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
}

}  // namespace accelerate
