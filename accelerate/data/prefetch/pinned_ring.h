#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "accelerate/data/fetch.h"
#include "accelerate/data/prefetch/transfer.h"

namespace accelerate::internal {

/// Host memory for one batch, which a device copies from.
struct PinnedSlot {
  at::Tensor memory;                      ///< bytes; undefined until a batch needs some
  std::shared_ptr<const BatchCopy> copy;  ///< the last one that read it
  bool lent = false;                      ///< somebody fills it
};

/// Slots of host memory that batches are copied from, each filled again only when its copy has finished. Used by the
/// thread of the loop; another may write into a slot that was lent.
class PinnedRing {
 public:
  /// At least two more than are lent at one time.
  PinnedRing(Transfer& transfer, size_t slots);

  /// A slot as it is, perhaps without memory; null while all are lent or copied from.
  PinnedSlot* lend_free();
  /// The same. While there is none, the host waits for the oldest copy: it has come far ahead of the way to the device.
  PinnedSlot& lend();
  /// Memory of at least so many bytes for a slot that is lent; what was in it is lost.
  void make_room(PinnedSlot& slot, int64_t bytes);
  /// `copy` reads the slot; when it has finished, the slot can be lent again. Null: at once.
  void copies(PinnedSlot& slot, std::shared_ptr<const BatchCopy> copy);

 private:
  Transfer& transfer_;
  std::vector<std::unique_ptr<PinnedSlot>> slots_;  ///< from the one that was copied from first
};

/// Whether a tensor is moved through pinned memory: plain ones of the CPU. Others move by themselves.
bool can_be_staged(const at::Tensor& tensor);
/// Bytes that `stage` needs.
int64_t staged_bytes(const Slot& batch);
/// Copies what can be staged of `batch`, and is not there already, into `memory` and puts the copies in its place; they
/// have the strides that `Tensor::to` gives. False if too little is left; nothing has changed then.
bool stage(Slot& batch, BatchMemory& memory);

}  // namespace accelerate::internal
