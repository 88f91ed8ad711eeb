#include "accelerate/comm/share.h"

#include <algorithm>

namespace accelerate {

Share share_of_process(int64_t length, const World& world) {
  const int64_t each = length / world.size;
  const int64_t left = length % world.size;
  const int64_t begin = world.rank * each + std::min(world.rank, left);
  const int64_t own = each + (world.rank < left ? 1 : 0);
  return {.begin = begin, .end = begin + own, .longest = each + (left > 0 ? 1 : 0)};
}

}  // namespace accelerate
