#include "accelerate/data/loader_core.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <limits>
#include <ranges>
#include <string>

#include "accelerate/core/error.h"
#include "accelerate/data/prefetch/prefetch.h"
#include "accelerate/data/sampler.h"
#include "accelerate/tensor/hardware.h"

namespace accelerate::internal {
namespace {

void check(int64_t samples, const DataLoaderOptions& options) {
  if (options.batch_size < 1) {
    throw ConfigError({.place = "DataLoader",
                       .what = "The batch size is not positive",
                       .got = ".batch_size = " + std::to_string(options.batch_size),
                       .expected = "1 or more",
                       .remedy = "Set DataLoaderOptions::batch_size"});
  }
  if (options.num_workers < 0) {
    throw ConfigError({.place = "DataLoader",
                       .what = "The number of workers is negative",
                       .got = ".num_workers = " + std::to_string(options.num_workers),
                       .expected = "0 or more",
                       .remedy = "Set DataLoaderOptions::num_workers; 0 makes batches on the thread of the loop"});
  }
  if (options.prefetch_factor && options.num_workers == 0) {
    throw ConfigError(
        {.place = "DataLoader",
         .what = "Nobody makes batches ahead",
         .got = ".prefetch_factor = " + std::to_string(*options.prefetch_factor) + " without .num_workers",
         .expected = "workers, whose batches it counts",
         .remedy = "Set .num_workers to 1 or more, or leave out .prefetch_factor"});
  }
  if (options.prefetch_factor.value_or(1) < 1) {
    throw ConfigError({.place = "DataLoader",
                       .what = "The workers may make no batch",
                       .got = ".prefetch_factor = " + std::to_string(*options.prefetch_factor),
                       .expected = "1 or more",
                       .remedy = "Set DataLoaderOptions::prefetch_factor, or leave it out"});
  }
  if (samples < 1) {
    throw DataError({.place = "DataLoader",
                     .what = "The data set is empty",
                     .got = "size() = " + std::to_string(samples),
                     .expected = "1 or more examples",
                     .remedy = "Check where the data set reads from"});
  }
}

void check_batches(const ShardPlan& plan, int64_t batch_size) {
  // Ragged ends may leave a rank without a batch; with drop_last, none means none for all.
  if (!plan.drop_last || plan.batches() > 0) return;
  const std::string ranks = plan.shard.size == 1 ? "" : " over " + std::to_string(plan.shard.size) + " processes";
  throw DataError({.place = "DataLoader",
                   .what = "The data set gives no batch",
                   .got = std::to_string(plan.samples) + " examples with .batch_size = " + std::to_string(batch_size) +
                          " and .drop_last = true" + ranks,
                   .expected = plan.shard.size == 1 ? "at least one full batch"
                                                    : "at least " + std::to_string(plan.total_batch_size()) +
                                                          ", a batch for each process",
                   .remedy = "Lower the batch size or keep the last batch"});
}

void check_shard(const DataShard& shard, int64_t batch_size) {
  if (shard.split_batches && batch_size % shard.size != 0) {
    throw ConfigError(
        {.place = "split_batches",
         .what = "The batch cannot be split into equal parts for the processes",
         .got = ".batch_size = " + std::to_string(batch_size) + " for " + std::to_string(shard.size) + " processes",
         .expected = "a round multiple of the number of processes",
         .remedy = "Change DataLoaderOptions::batch_size, or leave out split_batches"});
  }
  if (!shard.split_batches && batch_size > std::numeric_limits<int64_t>::max() / shard.size) {
    throw ConfigError(
        {.place = "DataLoader",
         .what = "The batches of all processes have more examples than can be counted",
         .got = ".batch_size = " + std::to_string(batch_size) + " for " + std::to_string(shard.size) + " processes",
         .expected = "a product below 2^63",
         .remedy = "Lower DataLoaderOptions::batch_size"});
  }
}

std::string describe(std::span<const int64_t> row) {
  std::string text = std::to_string(row[0]) + " examples, .batch_size = " + std::to_string(row[1]);
  text += std::string(", .shuffle = ") + (row[2] != 0 ? "true" : "false");
  return text + ", .drop_last = " + (row[3] != 0 ? "true" : "false");
}

/// Rank 0's seed. Ranks whose data or options differ would count batches differently, and wait for each other forever.
uint64_t agree(int64_t samples, const DataLoaderOptions& options, const LoaderPlacement& placement) {
  constexpr int64_t kCompared = 4;
  const std::vector<int64_t> own{samples, options.batch_size, options.shuffle, options.drop_last,
                                 static_cast<int64_t>(*options.seed)};
  const at::Tensor row = at::tensor(own, at::kLong).unsqueeze(0).to(placement.device);
  const at::Tensor table = placement.group.all_gather(row).cpu().contiguous();
  const auto row_of = [&](int64_t rank) {
    return std::span(table.const_data_ptr<int64_t>() + rank * table.size(1), static_cast<size_t>(table.size(1)));
  };
  for (int64_t rank = 1; rank < table.size(0); ++rank) {
    if (std::ranges::equal(row_of(0).first(kCompared), row_of(rank).first(kCompared))) continue;
    throw DataError({.place = "prepare",
                     .what = "The processes prepare different loaders",
                     .got = describe(row_of(rank)) + " on process " + std::to_string(rank),
                     .expected = describe(row_of(0)) + ", as on process 0",
                     .remedy = "Build the same loader over the whole data set everywhere: prepare() shares it out"});
  }
  return static_cast<uint64_t>(row_of(0).back());
}

}  // namespace

LoaderCore::LoaderCore(int64_t samples, Fetch fetch, DataLoaderOptions options)
    : samples_(samples), fetch_(std::move(fetch)), options_(options), own_seed_(options.seed.has_value()) {
  check(samples_, options_);
  check_batches(plan(), options_.batch_size);
  // Taken when the loader is built, so that what is drawn later (initial weights, dropout) cannot change the order.
  if (!options_.seed) options_.seed = at::detail::getDefaultCPUGenerator().current_seed();
}

std::shared_ptr<LoaderCore> LoaderCore::prepared(LoaderPlacement placement) const {
  auto core = std::make_shared<LoaderCore>(samples_, fetch_, options_);
  core->own_seed_ = own_seed_;
  if (placement.data_seed && !own_seed_) core->options_.seed = placement.data_seed;
  if (placement.shard.size > 1) {
    core->options_.seed = agree(samples_, core->options_, placement);
    check_shard(placement.shard, options_.batch_size);
  }
  const bool beside = placement.move && placement.non_blocking && !placement.device.is_cpu();
  if (beside && core->options_.pin_memory.value_or(true) && !placement.transfer) {
    placement.transfer = make_transfer(placement.device);
  }
  core->placement_ = std::move(placement);
  check_batches(core->plan(), options_.batch_size);
  return core;
}

ShardPlan LoaderCore::plan() const {
  const DataShard shard = placement_ ? placement_->shard : DataShard{};
  return {.samples = samples_,
          .batch_size = shard.split_batches ? options_.batch_size / shard.size : options_.batch_size,
          .drop_last = options_.drop_last,
          .shard = shard};
}

LoaderPass::LoaderPass(std::shared_ptr<LoaderCore> loader) : loader_(std::move(loader)) {
  const DataLoaderOptions& options = loader_->options_;
  const auto& placement = loader_->placement_;
  if (placement && placement->before_pass) placement->before_pass();
  const int64_t epoch = loader_->epoch_++;
  if (options.shuffle) {
    const bool drawn = placement && placement->draw_seed;
    order_ = drawn ? shuffled_order(loader_->samples_, placement->draw_seed(), 0)
                   : shuffled_order(loader_->samples_, *options.seed, epoch);
  } else {
    order_ = sequential_order(loader_->samples_);
  }
  progress_.remainder = loader_->plan().remainder();
  progress_.loader = loader_.get();
  if (loader_->placement_) {
    loader_->placement_->active->enter(&progress_);
    entered_ = true;
  }
}

LoaderPass::~LoaderPass() { leave(); }

void LoaderPass::leave() {
  if (entered_) loader_->placement_->active->leave(&progress_);
  entered_ = false;
}

void LoaderPass::begin(const ShardPlan& plan) {
  const DataLoaderOptions& options = loader_->options_;
  const auto& placement = loader_->placement_;
  constexpr int64_t kPrefetchFactor = 2;
  prefetch_.reset();  // its workers end before others start
  prefetch_ =
      std::make_unique<Prefetch>(loader_->fetch_, BatchIndices(plan, order_, position_),
                                 PrefetchOptions{.num_workers = options.num_workers,
                                                 .prefetch_factor = options.prefetch_factor.value_or(kPrefetchFactor),
                                                 .device = placement ? placement->device : c10::Device(c10::kCPU)},
                                 placement ? placement->transfer : nullptr);
  even_batches_ = plan.shard.even_batches;
}

void* LoaderPass::next() {
  const ShardPlan plan = loader_->plan();
  current_ = {};  // frees the last batch before the next one is made
  // A join may have turned the batches uneven when this rank had its last even one.
  if (position_ >= plan.batches()) {
    prefetch_.reset();
    leave();
    return nullptr;
  }
  // Then the last round is another one, which may have been made ahead.
  if (!prefetch_ || even_batches_ != plan.shard.even_batches) begin(plan);
  try {
    current_ = prefetch_->next();
  } catch (...) {
    prefetch_.reset();
    throw;
  }
  progress_.batch_samples = std::min(plan.total_batch_size(), plan.samples - position_ * plan.total_batch_size());
  ++position_;
  progress_.end_of_dataloader = position_ == plan.batches();
  if (loader_->placement_ && loader_->placement_->move) {
    const c10::Device device = loader_->placement_->device;
    const bool non_blocking = loader_->placement_->non_blocking;
    current_.for_each(current_.value.get(), [&](at::Tensor& tensor) {
      if (!tensor.defined() || tensor.device() == device) return;
      // Towards a GPU the host need not wait; what comes from one it may read at once.
      tensor = tensor.to(device, /*non_blocking=*/non_blocking && !device.is_cpu());
    });
  } else if (loader_->options_.pin_memory.value_or(false) && Hardware::of_process().cuda_devices > 0) {
    current_.for_each(current_.value.get(), [](at::Tensor& tensor) {
      if (can_be_staged(tensor)) tensor = tensor.pin_memory();
    });
  }
  return current_.value.get();
}

}  // namespace accelerate::internal
