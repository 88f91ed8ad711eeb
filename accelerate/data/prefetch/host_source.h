#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "accelerate/data/fetch.h"
#include "accelerate/data/prefetch/pinned_ring.h"
#include "accelerate/data/shard.h"

namespace accelerate::internal {

/// The index lists of one rank's batches, from a position of a pass on. `order` must outlive it.
class BatchIndices {
 public:
  BatchIndices(ShardPlan plan, std::span<const int64_t> order, int64_t position)
      : plan_(plan), order_(order), position_(position), end_(plan.batches()) {}

  bool at_end() const { return position_ >= end_; }
  /// Valid until the next call.
  std::span<const int64_t> next() { return plan_.batch(order_, position_++, filled_); }

 private:
  ShardPlan plan_;
  std::span<const int64_t> order_;
  int64_t position_;
  int64_t end_;
  std::vector<int64_t> filled_;
};

/// A batch in the host's memory.
struct HostBatch {
  Slot slot;
  PinnedSlot* lent = nullptr;  ///< for it alone
  bool staged = false;         ///< its tensors are there
};

/// Makes `batch`, in the memory that was lent for it as far as that goes.
void fetch_into(HostBatch& batch, const Fetch& fetch, std::span<const int64_t> indices);

/// Makes the batches of a pass, in order.
class HostSource {
 public:
  virtual ~HostSource() = default;
  /// The next one; not behind the last. Throws what making it threw; the source is of no use after that.
  virtual HostBatch take() = 0;
  /// There is a next one, and `take` would not wait for another thread.
  virtual bool ready() = 0;
};

/// Makes each batch when it is taken, in a slot of `ring`, which may be null. Both must outlive it.
std::unique_ptr<HostSource> make_inline_source(const Fetch& fetch, BatchIndices indices, PinnedRing* ring);

struct WorkerOptions {
  int64_t num_workers = 1;
  int64_t ahead = 2;                            ///< batches that are made or being made and not taken
  c10::Device device = c10::Device(c10::kCPU);  ///< the current one of the workers
};
/// Threads make batches ahead; those for which `ring` has a slot with room are staged there. `fetch` and `ring`, which
/// may be null, must outlive it. Destroying it waits for the batches being made. Throws ConfigError when the system
/// gives no more threads.
std::unique_ptr<HostSource> make_worker_source(const Fetch& fetch, BatchIndices indices, WorkerOptions options,
                                               PinnedRing* ring);

}  // namespace accelerate::internal
