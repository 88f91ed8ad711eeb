#include "accelerate/data/loader_core.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <string>

#include "accelerate/core/error.h"
#include "accelerate/data/sampler.h"

namespace accelerate::internal {
namespace {

BatchPlan plan_of(int64_t samples, const DataLoaderOptions& options) {
  return {.samples = samples, .batch_size = options.batch_size, .drop_last = options.drop_last};
}

void check(int64_t samples, const DataLoaderOptions& options) {
  if (options.batch_size < 1) {
    throw ConfigError({.place = "DataLoader",
                       .what = "The batch size is not positive",
                       .got = ".batch_size = " + std::to_string(options.batch_size),
                       .expected = "1 or more",
                       .remedy = "Set DataLoaderOptions::batch_size"});
  }
  if (samples < 1) {
    throw DataError({.place = "DataLoader",
                     .what = "The data set is empty",
                     .got = "size() = " + std::to_string(samples),
                     .expected = "1 or more examples",
                     .remedy = "Check where the data set reads from"});
  }
  if (plan_of(samples, options).batches() == 0) {
    throw DataError({.place = "DataLoader",
                     .what = "The data set gives no batch",
                     .got = std::to_string(samples) + " examples with .batch_size = " +
                            std::to_string(options.batch_size) + " and .drop_last = true",
                     .expected = "at least one full batch",
                     .remedy = "Lower the batch size or keep the last batch"});
  }
}

}  // namespace

LoaderCore::LoaderCore(int64_t samples, Fetch fetch, DataLoaderOptions options)
    : samples_(samples), fetch_(std::move(fetch)), options_(options) {
  check(samples_, options_);
  // Taken when the loader is built, so that what is drawn later (initial weights, dropout) cannot change the order.
  if (!options_.seed) options_.seed = at::detail::getDefaultCPUGenerator().current_seed();
}

std::shared_ptr<LoaderCore> LoaderCore::prepared(LoaderPlacement placement) const {
  auto core = std::make_shared<LoaderCore>(samples_, fetch_, options_);
  core->placement_ = std::move(placement);
  return core;
}

int64_t LoaderCore::batches() const { return plan_of(samples_, options_).batches(); }

LoaderPass::LoaderPass(std::shared_ptr<LoaderCore> loader) : loader_(std::move(loader)) {
  const DataLoaderOptions& options = loader_->options_;
  const int64_t epoch = loader_->epoch_++;
  order_ =
      options.shuffle ? shuffled_order(loader_->samples_, *options.seed, epoch) : sequential_order(loader_->samples_);
  progress_.remainder = plan_of(loader_->samples_, options).remainder();
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

void* LoaderPass::next() {
  const BatchPlan plan = plan_of(loader_->samples_, loader_->options_);
  current_ = {};  // frees the last batch before the next one is made
  if (position_ == plan.batches()) {
    leave();
    return nullptr;
  }
  current_ = loader_->fetch_(plan.batch(order_, position_));
  ++position_;
  progress_.end_of_dataloader = position_ == plan.batches();
  if (loader_->placement_) {
    const c10::Device device = loader_->placement_->device;
    current_.for_each(current_.value.get(), [&](at::Tensor& tensor) {
      if (tensor.defined() && tensor.device() != device) tensor = tensor.to(device);
    });
  }
  return current_.value.get();
}

}  // namespace accelerate::internal
