#include "accelerate/comm/trigger.h"

#include <algorithm>

#include "accelerate/comm/objects.h"

namespace accelerate::internal {

bool Trigger::check(const Group& group) {
  const std::vector<int64_t> flags = all_gather_numbers(group, set_ ? 1 : 0);
  if (std::ranges::find(flags, 1) == flags.end()) return false;
  set_ = false;
  return true;
}

}  // namespace accelerate::internal
