#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/data/prefetch/host_source.h"
#include "accelerate/data/prefetch/pinned_ring.h"
#include "accelerate/data/prefetch/transfer.h"

namespace accelerate::internal {

struct PrefetchOptions {
  int64_t num_workers = 0;      ///< 0: the thread of the loop makes the batches
  int64_t prefetch_factor = 2;  ///< batches ahead for each worker
  c10::Device device = c10::Device(c10::kCPU);
};

/// A batch on its way to the device.
struct Travelling {
  HostBatch batch = {};
  std::vector<at::Tensor*> copied = {};
  std::shared_ptr<const BatchCopy> copy = {};  ///< null: nothing had to be copied
  bool sent = false;
  std::exception_ptr error = {};  ///< of making it
};

/// The batches of one pass, made and copied before the loop asks for them. With a transfer the copy of batch i+1 has
/// been queued when batch i is handed out; without workers that batch is made then, too, on the thread of the loop.
/// Without either nothing happens ahead. An error comes with the batch that it belongs to; the object is of no use
/// after that.
class Prefetch {
 public:
  /// `fetch` and the order behind `indices` must outlive it. `transfer` may be null.
  Prefetch(const Fetch& fetch, BatchIndices indices, PrefetchOptions options, std::shared_ptr<Transfer> transfer);

  /// The next batch; not behind the last. Tensors that cannot be staged are where the data set left them.
  Slot next();

 private:
  void send(Travelling& batch);
  void send_ahead();

  std::shared_ptr<Transfer> transfer_;
  std::optional<PinnedRing> ring_;  ///< outlives the workers, who write into it
  std::unique_ptr<HostSource> host_;
  std::optional<Travelling> ahead_;
};

}  // namespace accelerate::internal
