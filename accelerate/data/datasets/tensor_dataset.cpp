#include "accelerate/data/datasets/tensor_dataset.h"

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {

at::Tensor take_rows(const at::Tensor& tensor, std::span<const int64_t> indices, BatchMemory& memory) {
  const auto index =
      at::from_blob(const_cast<int64_t*>(indices.data()), {static_cast<int64_t>(indices.size())}, at::kLong);
  if (!tensor.is_cpu()) return tensor.index_select(0, index.to(tensor.device()));
  if (memory.left() == 0 || tensor.requires_grad() || tensor.layout() != at::kStrided) return tensor.index_select(0, index);
  std::vector<int64_t> sizes = tensor.sizes().vec();
  sizes[0] = index.numel();
  at::Tensor rows = memory.empty(sizes, tensor.scalar_type());
  at::index_select_out(rows, tensor, 0, index);
  return rows;
}

int64_t common_rows(std::span<const at::Tensor> tensors) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool usable = tensors[i].defined() && tensors[i].dim() > 0;
    if (usable && tensors[i].size(0) == tensors[0].size(0)) continue;
    const std::string position = "tensor " + std::to_string(i);
    throw DataError({.place = "TensorDataset",
                     .what = "The tensors do not have the same number of rows",
                     .got = position + (!tensors[i].defined() ? " undefined"
                                        : !usable             ? " without a dimension"
                                                  : " with " + std::to_string(tensors[i].size(0)) + " rows"),
                     .expected = i == 0 ? "a tensor whose dimension 0 counts the examples"
                                        : std::to_string(tensors[0].size(0)) + " rows as in tensor 0",
                     .remedy = "Pass one row of every tensor for each example"});
  }
  return tensors[0].size(0);
}

}  // namespace accelerate::internal
