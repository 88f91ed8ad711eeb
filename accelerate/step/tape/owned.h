#pragma once

#include <c10/core/Storage.h>

#include <memory>
#include <utility>
#include <vector>

#include "accelerate/step/tape/tape.h"

namespace accelerate::internal {

struct Tape::Owned {
  std::vector<std::shared_ptr<CapturedWork>> work;
  std::vector<c10::DataPtr> blocks;

  /// Storage over memory that `owned` keeps.
  static c10::Storage show(const std::shared_ptr<Owned>& owned, void* data, size_t bytes, c10::Device device) {
    auto* held = new std::shared_ptr<Owned>(owned);
    return {c10::Storage::use_byte_size_t(), bytes,
            c10::DataPtr(
                data, held, [](void* owner) { delete static_cast<std::shared_ptr<Owned>*>(owner); }, device),
            /*allocator=*/nullptr, /*resizable=*/false};
  }
};

}  // namespace accelerate::internal
