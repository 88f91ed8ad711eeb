#pragma once

#include <memory>

namespace accelerate::internal {

/// Throws UsageError: a handle of that kind stands for nothing any more.
[[noreturn]] void throw_empty_handle(const char* kind);

/// What a handle stands for. Throws UsageError for one that `free_memory` emptied or that was moved from.
template <class T>
const std::shared_ptr<T>& held(const std::shared_ptr<T>& core, const char* kind) {
  if (core == nullptr) throw_empty_handle(kind);
  return core;
}

}  // namespace accelerate::internal
