#include "accelerate/data/prefetch/pinned_ring.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

namespace accelerate::internal {
namespace {

bool is_free(const PinnedSlot& slot) { return !slot.lent && (slot.copy == nullptr || slot.copy->finished()); }

}  // namespace

PinnedRing::PinnedRing(Transfer& transfer, size_t slots) : transfer_(transfer) {
  for (size_t i = 0; i < slots; ++i) slots_.push_back(std::make_unique<PinnedSlot>());
}

PinnedSlot* PinnedRing::lend_free() {
  const auto found = std::ranges::find_if(slots_, [](const auto& slot) { return is_free(*slot); });
  if (found == slots_.end()) return nullptr;
  (*found)->copy = nullptr;
  (*found)->lent = true;
  return found->get();
}

PinnedSlot& PinnedRing::lend() {
  if (PinnedSlot* slot = lend_free()) return *slot;
  const auto oldest = std::ranges::find_if(slots_, [](const auto& slot) { return !slot->lent; });
  (*oldest)->copy->wait();
  return *lend_free();
}

void PinnedRing::make_room(PinnedSlot& slot, int64_t bytes) {
  if (!slot.memory.defined() || slot.memory.numel() < bytes) slot.memory = transfer_.host_memory(bytes);
}

void PinnedRing::copies(PinnedSlot& slot, std::shared_ptr<const BatchCopy> copy) {
  slot.copy = std::move(copy);
  slot.lent = false;
  const auto own = std::ranges::find_if(slots_, [&](const auto& one) { return one.get() == &slot; });
  std::rotate(own, own + 1, slots_.end());
}

bool can_be_staged(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().is_cpu() && tensor.layout() == at::kStrided && !tensor.requires_grad() &&
         !tensor.is_quantized() && tensor.has_storage();
}

int64_t staged_bytes(const Slot& batch) {
  int64_t bytes = 0;
  batch.for_each(batch.value.get(), [&](at::Tensor& tensor) {
    if (can_be_staged(tensor)) bytes += BatchMemory::bytes_of(tensor);
  });
  return bytes;
}

bool stage(Slot& batch, BatchMemory& memory) {
  int64_t missing = 0;
  const auto is_missing = [&](const at::Tensor& tensor) {
    if (!can_be_staged(tensor)) return false;
    return !memory.has(tensor) || !tensor.is_non_overlapping_and_dense() || tensor.is_conj() || tensor.is_neg();
  };
  batch.for_each(batch.value.get(), [&](at::Tensor& tensor) {
    if (is_missing(tensor)) missing += BatchMemory::bytes_of(tensor);
  });
  if (missing > memory.left()) return false;
  batch.for_each(batch.value.get(), [&](at::Tensor& tensor) {
    if (!is_missing(tensor)) return;
    const auto strides = tensor.is_non_overlapping_and_dense()
                             ? tensor.strides().vec()
                             : at::infer_dense_strides(tensor.sizes(), tensor.strides());
    at::Tensor staged = memory.take(tensor.sizes(), strides, tensor.options());
    const c10::InferenceMode normal(false);
    staged.copy_(tensor);
    tensor = std::move(staged);
  });
  return true;
}

}  // namespace accelerate::internal
