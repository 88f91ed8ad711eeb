#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "accelerate/data/batch_memory.h"
#include "accelerate/tensor/tree.h"

namespace accelerate::internal {

/// One batch whose type is forgotten: the value, and how to visit its tensors.
struct Slot {
  std::shared_ptr<void> value;
  void (*for_each)(void* value, TensorVisitor visit) = nullptr;
};

/// Examples `indices` of a data set, collated; in `memory` if the data set can. With workers several threads call it at
/// once.
using Fetch = std::function<Slot(std::span<const int64_t> indices, BatchMemory& memory)>;

}  // namespace accelerate::internal
