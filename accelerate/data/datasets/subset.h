#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "accelerate/data/dataset.h"

namespace accelerate {

/// Some examples of a data set, in the order of `indices`. Throws what the data set throws for an index it lacks.
/// Source: `torch.utils.data.Subset`.
template <Dataset D>
class Subset {
 public:
  Subset(D dataset, std::vector<int64_t> indices) : dataset_(std::move(dataset)), indices_(std::move(indices)) {}

  int64_t size() const { return static_cast<int64_t>(indices_.size()); }
  const std::vector<int64_t>& indices() const { return indices_; }
  decltype(auto) get(int64_t index) requires ExampleDataset<D> {
    return dataset_.get(indices_.at(static_cast<size_t>(index)));
  }
  auto get_batch(std::span<const int64_t> indices) requires BatchDataset<D> {
    std::vector<int64_t> own;
    own.reserve(indices.size());
    for (const int64_t index : indices) own.push_back(indices_.at(static_cast<size_t>(index)));
    return dataset_.get_batch(std::span<const int64_t>(own));
  }

 private:
  D dataset_;
  std::vector<int64_t> indices_;
};

}  // namespace accelerate
