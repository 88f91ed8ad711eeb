#include "accelerate/data/prefetch/prefetch.h"

#include <c10/util/Exception.h>

#include <utility>

namespace accelerate::internal {

Prefetch::Prefetch(const Fetch& fetch, BatchIndices indices, PrefetchOptions options,
                   std::shared_ptr<Transfer> transfer)
    : transfer_(std::move(transfer)) {
  const int64_t ahead = options.num_workers * options.prefetch_factor;
  // One is filled while another is copied from, and one more keeps the host from waiting for that copy.
  constexpr int64_t kOwnSlots = 3;
  if (transfer_) ring_.emplace(*transfer_, static_cast<size_t>(ahead + kOwnSlots));
  if (options.num_workers == 0) {
    host_ = make_inline_source(fetch, std::move(indices), ring_ ? &*ring_ : nullptr);
  } else {
    host_ = make_worker_source(fetch, std::move(indices),
                               {.num_workers = options.num_workers, .ahead = ahead, .device = options.device},
                               ring_ ? &*ring_ : nullptr);
  }
}

Slot Prefetch::next() {
  if (!transfer_) return host_->take().slot;
  Travelling current = ahead_ ? std::move(*ahead_) : Travelling{.batch = host_->take()};
  ahead_.reset();
  if (current.error) std::rethrow_exception(current.error);
  if (!current.sent) send(current);
  send_ahead();
  if (current.copy) current.copy->before_use(current.copied);
  return std::move(current.batch.slot);
}

void Prefetch::send(Travelling& travelling) {
  HostBatch& batch = travelling.batch;
  if (!batch.staged) {
    if (const int64_t bytes = staged_bytes(batch.slot); bytes > 0) {
      if (batch.lent == nullptr) batch.lent = &ring_->lend();
      ring_->make_room(*batch.lent, bytes);
      BatchMemory memory(batch.lent->memory);
      batch.staged = stage(batch.slot, memory);
    }
  }
  travelling.copied.clear();
  batch.slot.for_each(batch.slot.value.get(), [&](at::Tensor& tensor) {
    if (can_be_staged(tensor)) travelling.copied.push_back(&tensor);
  });
  if (!travelling.copied.empty()) travelling.copy = transfer_->start(travelling.copied);
  if (batch.lent != nullptr) ring_->copies(*batch.lent, travelling.copy);
  travelling.sent = true;
}

void Prefetch::send_ahead() {
  if (!host_->ready()) return;
  ahead_.emplace();
  try {
    ahead_->batch = host_->take();
  } catch (...) {
    ahead_->error = std::current_exception();
    return;
  }
  try {
    send(*ahead_);
  } catch (const c10::Error&) {
    ahead_->sent = false;  // tried again when its turn comes: by then the step may have given memory back
  }
}

}  // namespace accelerate::internal
