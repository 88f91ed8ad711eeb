#pragma once

#include <concepts>
#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "accelerate/core/handle.h"
#include "accelerate/data/collate.h"
#include "accelerate/data/dataset.h"
#include "accelerate/data/loader_core.h"
#include "accelerate/tensor/tree.h"

namespace accelerate {
namespace internal {

template <class Batch>
Slot make_slot(Batch batch) {
  return {std::make_shared<Batch>(std::move(batch)),
          [](void* value, TensorVisitor visit) { for_each_tensor(*static_cast<Batch*>(value), visit); }};
}

template <ExampleDataset D>
std::vector<ExampleOf<D>> examples_of(D& dataset, std::span<const int64_t> indices) {
  std::vector<ExampleOf<D>> examples;
  examples.reserve(indices.size());
  for (const int64_t index : indices) examples.push_back(dataset.get(index));
  return examples;
}

}  // namespace internal

/// Batches of a data set, typed by the batch: `for (auto& [images, labels] : loader)`. The reference is valid until the
/// next batch. Passes over a prepared loader yield this process's batches on `accelerator.device()`: each process sees
/// another part of the same order. Copies share the epoch count.
/// Source: `torch.utils.data.DataLoader`; the order of a shuffled pass is a function of (seed, epoch) alone.
template <class Batch>
class DataLoader {
 public:
  using batch_type = Batch;

  /// The data set is kept by value; give a `std::shared_ptr` inside it if copying it is expensive.
  template <Dataset D>
  requires std::same_as<BatchOf<D>, Batch>
  explicit DataLoader(D dataset, DataLoaderOptions options = {})
      : DataLoader(std::make_shared<D>(std::move(dataset)), options) {}

  /// With an own collate: `Batch collate(std::vector<Example>)`.
  template <ExampleDataset D, class Collate>
  DataLoader(D dataset, DataLoaderOptions options, Collate collate) {
    const int64_t size = dataset.size();
    core_ = std::make_shared<internal::LoaderCore>(
        size,
        [data = std::make_shared<D>(std::move(dataset)), collate](std::span<const int64_t> indices, BatchMemory&) {
          return internal::make_slot<Batch>(collate(internal::examples_of(*data, indices)));
        },
        options);
  }

  explicit DataLoader(std::shared_ptr<internal::LoaderCore> core) : core_(std::move(core)) {}

  class Iterator {
   public:
    using value_type = Batch;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(std::unique_ptr<internal::LoaderPass> pass) : pass_(std::move(pass)), batch_(pass_->next()) {}
    Batch& operator*() const { return *static_cast<Batch*>(batch_); }
    Iterator& operator++() {
      batch_ = nullptr;  // an error in fetching ends the pass
      batch_ = pass_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return batch_ == nullptr; }

   private:
    std::unique_ptr<internal::LoaderPass> pass_;
    void* batch_;
  };

  /// Starts a pass, which counts one epoch, also when it is broken off: the next one has another order.
  Iterator begin() const { return Iterator(std::make_unique<internal::LoaderPass>(used())); }
  std::default_sentinel_t end() const { return {}; }

  /// Batches in one pass, of this process when prepared.
  int64_t size() const { return used()->batches(); }
  /// Examples in one batch, over all processes when prepared.
  int64_t total_batch_size() const { return used()->total_batch_size(); }
  /// Examples in the data set.
  int64_t num_samples() const { return used()->samples(); }
  /// The epoch whose order the next pass takes.
  void set_epoch(int64_t epoch) const { used()->set_epoch(epoch); }
  int64_t epoch() const { return used()->epoch(); }

  const std::shared_ptr<internal::LoaderCore>& core() const { return core_; }

 private:
  template <Dataset D>
  DataLoader(std::shared_ptr<D> data, DataLoaderOptions options) {
    const int64_t size = data->size();
    core_ = std::make_shared<internal::LoaderCore>(
        size,
        [data = std::move(data)](std::span<const int64_t> indices, [[maybe_unused]] BatchMemory& memory) {
          if constexpr (StagingDataset<D>) {
            return internal::make_slot<Batch>(data->get_batch(indices, memory));
          } else if constexpr (BatchDataset<D>) {
            return internal::make_slot<Batch>(data->get_batch(indices));
          } else {
            static_assert(
                internal::stackable<Batch>(),
                "accelerate: an example with a field that is no tensor cannot be stacked into a batch of its own "
                "type; make the field a tensor or pass a collate function as third argument of DataLoader.");
            return internal::make_slot<Batch>(collate(internal::examples_of(*data, indices)));
          }
        },
        options);
  }

  const std::shared_ptr<internal::LoaderCore>& used() const { return internal::held(core_, "data loader"); }
  std::shared_ptr<internal::LoaderCore> core_;
};

template <Dataset D>
DataLoader(D, DataLoaderOptions = {}) -> DataLoader<BatchOf<D>>;
template <ExampleDataset D, class Collate>
DataLoader(D, DataLoaderOptions, Collate)
    -> DataLoader<std::remove_cvref_t<std::invoke_result_t<Collate, std::vector<ExampleOf<D>>>>>;

}  // namespace accelerate
