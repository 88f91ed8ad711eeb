#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "accelerate/core/fields.h"
#include "accelerate/precision/float32.h"

namespace accelerate::internal {

/// Throws ConfigError for a text that is not known, for two fields that say the opposite of each other, and for TF32 of
/// GPUs on a device that is none.
void check(const Float32Kwargs& options, c10::Device device);
/// What `accelerator.plan()` prints of them.
std::vector<Field> fields_of(const Float32Kwargs& options);

/// Sets the process's switches until it ends, then they are what they were, or what scopes that are still alive say:
/// scopes may end in any order. One of nothing does nothing.
class [[nodiscard]] Float32Scope {
 public:
  Float32Scope() = default;
  explicit Float32Scope(const Float32Kwargs& options);
  ~Float32Scope() { end(); }
  Float32Scope(const Float32Scope&) = delete;
  Float32Scope& operator=(const Float32Scope&) = delete;
  /// At once; the second time nothing.
  void end() noexcept;

 private:
  int64_t number_ = 0;  ///< 0: none
};

}  // namespace accelerate::internal
