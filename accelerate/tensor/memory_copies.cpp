#include "accelerate/tensor/memory_copies.h"

#include <algorithm>

namespace accelerate::internal {

const MemoryCopier* copier_of(c10::DeviceType type) {
  static const std::vector<MemoryCopier> all = builtin_copiers();
  const auto found = std::ranges::find(all, type, &MemoryCopier::type);
  return found == all.end() ? nullptr : &*found;
}

}  // namespace accelerate::internal
