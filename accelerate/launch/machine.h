#pragma once

#include <cstdint>

namespace accelerate::internal::launch {

/// What a plan needs to know about this machine.
struct Machine {
  int64_t cores = 1;  ///< that this process may use: its affinity mask, capped by the quota of its control group
  int64_t gpus = 0;   ///< device files /dev/nvidia<number>; a container sees those that were given to it

  static Machine look();
};

}  // namespace accelerate::internal::launch
