#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "accelerate/data/batch_memory.h"

namespace accelerate {

/// A map-style data set that gives whole batches: `size()` and `get_batch(std::span<const int64_t> indices)`.
template <class D>
concept BatchDataset = requires(D& dataset, std::span<const int64_t> indices) {
  { dataset.size() } -> std::convertible_to<int64_t>;
  dataset.get_batch(indices);
};

/// One that can make a batch where a device copies from it directly.
template <class D>
concept StagingDataset = BatchDataset<D> &&
    requires(D& dataset, std::span<const int64_t> indices, BatchMemory& memory) {
  dataset.get_batch(indices, memory);
};

/// A map-style data set that gives examples: `size()` and `get(int64_t index)`.
template <class D>
concept ExampleDataset = requires(D& dataset, int64_t index) {
  { dataset.size() } -> std::convertible_to<int64_t>;
  dataset.get(index);
};

template <class D>
concept Dataset = BatchDataset<D> || ExampleDataset<D>;

namespace internal {

template <class D>
struct BatchOfDataset;
template <BatchDataset D>
struct BatchOfDataset<D> {
  using type = std::remove_cvref_t<decltype(std::declval<D&>().get_batch({}))>;
};
template <ExampleDataset D>
requires(!BatchDataset<D>) struct BatchOfDataset<D> {
  using type = std::remove_cvref_t<decltype(std::declval<D&>().get(int64_t{}))>;
};

}  // namespace internal

/// What a loader over `D` yields: the type of `get_batch`, or that of an example with its tensors stacked.
template <Dataset D>
using BatchOf = typename internal::BatchOfDataset<D>::type;

template <ExampleDataset D>
using ExampleOf = std::remove_cvref_t<decltype(std::declval<D&>().get(int64_t{}))>;

}  // namespace accelerate
