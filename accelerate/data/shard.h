#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace accelerate {

/// Which of the ranks that share a data set this one is, and how they share it.
struct DataShard {
  int64_t rank = 0;
  int64_t size = 1;
  bool even_batches = true;    ///< the last round is filled up with samples from the start of the pass
  bool split_batches = false;  ///< the loader's batch is that of all ranks together
};

/// How an order of samples is cut into the batches of one rank; integers only. The order is cut into rounds of
/// `total_batch_size()`, and each rank takes its consecutive part of every round. With one rank a round is a batch.
/// Source: `accelerate.data_loader.BatchSamplerShard`.
struct ShardPlan {
  int64_t samples = 0;
  int64_t batch_size = 1;  ///< of one rank
  bool drop_last = false;  ///< leaves out a last round that is not full
  DataShard shard = {};

  /// Samples of one round, over all ranks.
  int64_t total_batch_size() const { return batch_size * shard.size; }
  /// Batches of this rank in a pass. The same on every rank, unless ends are ragged (no `even_batches`): then the first
  /// ranks may have one more.
  int64_t batches() const;
  /// This rank's part of round `index`: a part of `order`, or of `filled`, which is written when the round lacks
  /// samples and they are taken from the start of `order`, rank after rank. Short at most in the last round of one
  /// rank or of ragged ends.
  std::span<const int64_t> batch(std::span<const int64_t> order, int64_t index, std::vector<int64_t>& filled) const;
  /// Samples in the last round when it is not full, 0 when all are full, -1 with `drop_last`: what
  /// `gather_for_metrics` keeps of the last round. Source: `DataLoaderShard.begin`.
  int64_t remainder() const;

 private:
  /// The first sample of this rank's part of round `index`.
  int64_t begin_of(int64_t index) const { return index * total_batch_size() + shard.rank * batch_size; }
  bool fills_up() const { return shard.even_batches && shard.size > 1; }
};

}  // namespace accelerate
