#pragma once

#include <cstddef>

namespace accelerate {

/// Bytes that go from one place of memory to another.
struct MemoryCopy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
};

}  // namespace accelerate
