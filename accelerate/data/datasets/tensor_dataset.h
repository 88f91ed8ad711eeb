#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <span>
#include <tuple>

#include "accelerate/data/batch_memory.h"

namespace accelerate {

namespace internal {
/// Rows `indices` of `tensor`, copied, those of the CPU into `memory`. Shape: {indices.size(), rest of the tensor's}.
at::Tensor take_rows(const at::Tensor& tensor, std::span<const int64_t> indices, BatchMemory& memory);
/// Number of rows that all tensors share. Throws DataError, naming the positions, when they differ.
int64_t common_rows(std::span<const at::Tensor> tensors);
}  // namespace internal

/// Rows of tensors held in memory; example i is row i of each. A batch is a tuple with one `index_select` a tensor.
/// Throws DataError when the leading sizes differ or a tensor is undefined or has no dimension.
/// Source: `torch.utils.data.TensorDataset`.
template <class... Tensors>
class TensorDataset {
  static_assert(sizeof...(Tensors) > 0 && (std::is_same_v<Tensors, at::Tensor> && ...),
                "accelerate: TensorDataset takes one or more tensors.");

 public:
  explicit TensorDataset(Tensors... tensors)
      : tensors_{std::move(tensors)...}, size_(internal::common_rows(tensors_)) {}

  int64_t size() const { return size_; }
  std::tuple<Tensors...> get_batch(std::span<const int64_t> indices) const {
    BatchMemory none;
    return get_batch(indices, none);
  }
  std::tuple<Tensors...> get_batch(std::span<const int64_t> indices, BatchMemory& memory) const {
    return std::apply(
        [&](const auto&... tensor) { return std::tuple<Tensors...>(internal::take_rows(tensor, indices, memory)...); },
        tensors_);
  }

 private:
  std::array<at::Tensor, sizeof...(Tensors)> tensors_;
  int64_t size_;
};

}  // namespace accelerate
