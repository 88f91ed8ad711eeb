#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "accelerate/comm/group.h"
#include "accelerate/data/active_loaders.h"
#include "accelerate/data/fetch.h"
#include "accelerate/data/shard.h"

namespace accelerate {

struct DataLoaderOptions {
  int64_t batch_size = 1;             ///< of each process; with `split_batches`, of all together
  bool shuffle = false;               ///< a new order each epoch, drawn from (seed, epoch)
  bool drop_last = false;             ///< leave out a last batch that would be short
  std::optional<uint64_t> seed = {};  ///< of the order; unset: the seed of LibTorch's default generator (`set_seed`)
  int64_t num_workers =
      0;  ///< threads that make batches ahead and call the data set at the same time; 0: the loop's own
  /// Batches pass through memory that the GPU reads while the host goes on. Unset: those of a prepared loader that go
  /// to a GPU. True: also those that stay on the host. Without a GPU it means nothing.
  std::optional<bool> pin_memory = {};
  std::optional<int64_t> prefetch_factor = {};  ///< batches that each worker makes ahead; unset: 2
};

namespace internal {

class Prefetch;
class Transfer;

/// What preparing adds to a loader.
struct LoaderPlacement {
  c10::Device device;  ///< of the ranks
  bool move = true;    ///< batches come on `device`
  std::shared_ptr<ActiveLoaders> active;
  DataShard shard = {};
  Group group = {};  ///< the ranks that share the data
  bool non_blocking = true;
  std::function<uint64_t()> draw_seed = {};  ///< of a pass's order; empty: it is that of (seed, epoch)
  std::optional<uint64_t> data_seed = {};    ///< for a loader without a seed of its own
  std::function<void()> before_pass = {};    ///< reached by every rank when a pass starts
  std::shared_ptr<Transfer> transfer = {};   ///< unset: that of `device`, if batches go there beside the computation
};

class LoaderPass;

/// The part of a DataLoader that does not know the batch type.
class LoaderCore {
 public:
  /// Throws ConfigError for a batch size below 1 and for workers and batches ahead that make no sense, DataError for an
  /// empty data set or one that gives no batch at all.
  LoaderCore(int64_t samples, Fetch fetch, DataLoaderOptions options);

  /// The same data and options, counting epochs from 0, with this rank's batches on the device. Reached by every rank:
  /// in one small exchange they take rank 0's seed and compare the rest. Throws DataError when they differ or when the
  /// ranks get no batch, ConfigError for a batch that cannot be split.
  std::shared_ptr<LoaderCore> prepared(LoaderPlacement placement) const;
  bool is_prepared() const { return placement_.has_value(); }

  int64_t batches() const { return plan().batches(); }
  int64_t total_batch_size() const { return plan().total_batch_size(); }
  int64_t samples() const { return samples_; }
  const DataLoaderOptions& options() const { return options_; }
  void set_epoch(int64_t epoch) { epoch_ = epoch; }
  /// Of a prepared loader; passes in progress follow at their next batch.
  bool even_batches() const { return placement_->shard.even_batches; }
  void set_even_batches(bool even) noexcept { placement_->shard.even_batches = even; }
  int64_t epoch() const { return epoch_; }

 private:
  friend class LoaderPass;
  ShardPlan plan() const;
  int64_t samples_;
  Fetch fetch_;
  DataLoaderOptions options_;
  bool own_seed_ = false;  ///< the options came with one
  std::optional<LoaderPlacement> placement_;
  int64_t epoch_ = 0;  ///< of the next pass
};

/// One pass over a loader; several may be in progress over one loader. Destroying it breaks the pass off.
class LoaderPass {
 public:
  explicit LoaderPass(std::shared_ptr<LoaderCore> loader);
  ~LoaderPass();
  LoaderPass(const LoaderPass&) = delete;
  LoaderPass& operator=(const LoaderPass&) = delete;

  /// The next batch, valid until the next call; null at the end.
  void* next();

 private:
  void leave();
  void begin(const ShardPlan& plan);
  std::shared_ptr<LoaderCore> loader_;
  std::vector<int64_t> order_;
  std::unique_ptr<Prefetch> prefetch_;  ///< from `position_` on
  bool even_batches_ = true;            ///< what it was made for
  int64_t position_ = 0;                ///< batches handed out
  Slot current_;
  LoaderProgress progress_;
  bool entered_ = false;
};

}  // namespace internal
}  // namespace accelerate
