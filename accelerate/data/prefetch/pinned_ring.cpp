#include "accelerate/data/prefetch/pinned_ring.h"

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

namespace accelerate::internal {
namespace {

/// Where a tensor may begin: every dtype's size divides it, and vector instructions like it.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t bytes_of(const at::Tensor& tensor) { return aligned(static_cast<int64_t>(tensor.nbytes())); }

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
    if (can_be_staged(tensor)) bytes += bytes_of(tensor);
  });
  return bytes;
}

bool stage(Slot& batch, const at::Tensor& memory) {
  if (!memory.defined() || memory.numel() < staged_bytes(batch)) return false;
  int64_t offset = 0;
  batch.for_each(batch.value.get(), [&](at::Tensor& tensor) {
    if (!can_be_staged(tensor)) return;
    const auto strides = tensor.is_non_overlapping_and_dense()
                             ? tensor.strides().vec()
                             : at::infer_dense_strides(tensor.sizes(), tensor.strides());
    const c10::InferenceMode normal(false);
    at::Tensor staged = at::empty({0}, tensor.options().pinned_memory(false));
    staged.set_(memory.storage(), offset / static_cast<int64_t>(tensor.element_size()), tensor.sizes(), strides);
    staged.copy_(tensor);
    offset += bytes_of(tensor);
    tensor = std::move(staged);
  });
  return true;
}

}  // namespace accelerate::internal
