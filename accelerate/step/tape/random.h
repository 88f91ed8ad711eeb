#pragma once

#include <c10/core/DeviceType.h>

#include <cstdint>

namespace accelerate::internal {

/// Where the random numbers of the current device are: another one than operators have left means that somebody set it.
struct RandomState {
  uint64_t seed = 0, offset = 0;
  bool operator==(const RandomState&) const = default;
  static RandomState now(c10::DeviceType device);
};

}  // namespace accelerate::internal
