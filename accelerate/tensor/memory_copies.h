#pragma once

#include <c10/core/DeviceType.h>

#include <cstddef>
#include <span>
#include <vector>

namespace c10 {
class Stream;
}

namespace accelerate {

/// Bytes that go from one place in a device's reach to another.
struct MemoryCopy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
};

namespace internal {

/// How a kind of device makes many small copies at once, where each one by itself costs the host more than it carries:
/// the plug-in folder `tensor/copiers`.
struct MemoryCopier {
  c10::DeviceType type;
  /// Queues them; no two of them write the same bytes. Memory of the host has to be pinned.
  void (*copy)(std::span<const MemoryCopy> copies, c10::Stream stream);
};

std::vector<MemoryCopier> builtin_copiers();
/// Null: this kind of device has none in this build.
const MemoryCopier* copier_of(c10::DeviceType type);

}  // namespace internal
}  // namespace accelerate
