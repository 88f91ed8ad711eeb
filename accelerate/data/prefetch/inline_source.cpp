#include "accelerate/data/prefetch/host_source.h"

namespace accelerate::internal {
namespace {

class InlineSource final : public HostSource {
 public:
  InlineSource(const Fetch& fetch, BatchIndices indices, PinnedRing* ring)
      : fetch_(fetch), indices_(std::move(indices)), ring_(ring) {}
  HostBatch take() override {
    HostBatch batch;
    if (ring_ != nullptr) batch.lent = &ring_->lend();
    fetch_into(batch, fetch_, indices_.next());
    return batch;
  }
  bool ready() override { return !indices_.at_end(); }

 private:
  const Fetch& fetch_;
  BatchIndices indices_;
  PinnedRing* const ring_;
};

}  // namespace

void fetch_into(HostBatch& batch, const Fetch& fetch, std::span<const int64_t> indices) {
  BatchMemory memory = batch.lent == nullptr ? BatchMemory() : BatchMemory(batch.lent->memory);
  batch.slot = fetch(indices, memory);
  batch.staged = batch.lent != nullptr && stage(batch.slot, memory);
}

std::unique_ptr<HostSource> make_inline_source(const Fetch& fetch, BatchIndices indices, PinnedRing* ring) {
  return std::make_unique<InlineSource>(fetch, std::move(indices), ring);
}

}  // namespace accelerate::internal
