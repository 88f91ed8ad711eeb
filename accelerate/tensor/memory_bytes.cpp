#include "accelerate/tensor/memory_bytes.h"

#include <ATen/ATen.h>

namespace accelerate::internal {

void MemoryCount::add(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device() != device_) return;
  if (tensor.layout() == at::kSparse) {
    add(tensor._indices());
    add(tensor._values());
    return;
  }
  if (!tensor.has_storage()) return;
  const c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
  if (seen_.insert(storage).second) bytes_ += static_cast<int64_t>(storage->nbytes());
}

}  // namespace accelerate::internal
