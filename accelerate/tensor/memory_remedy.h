#pragma once

#include <cstdint>
#include <string>

namespace accelerate::internal {

/// Something to change, and the bytes that it would give back.
struct MemoryRemedy {
  int64_t saves = 0;
  std::string text = {};  ///< "set .gradient_as_bucket_view"
};

/// What somebody holds besides parameters, gradients and state.
struct ExtraMemory {
  int64_t bytes = 0;
  MemoryRemedy remedy = {};
};

/// "2.50 GiB".
std::string bytes_text(int64_t bytes);

}  // namespace accelerate::internal
