#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "accelerate/tensor/structure.h"

namespace accelerate {
namespace internal {

/// Stacks column `tensor` of all examples along a new dimension 0. Throws DataError naming the example whose shape or
/// dtype differs.
at::Tensor stack_column(const std::vector<at::Tensor>& column, size_t tensor);
[[noreturn]] void throw_unequal_structure(size_t example, const std::string& got, const std::string& expected);

}  // namespace internal

/// The default collate: examples of one structure in, one value of the same type out, every tensor stacked along a new
/// dimension 0. Throws DataError when shapes, dtypes, keys or lengths differ between examples.
/// Source: `torch.utils.data.default_collate`.
template <class Example>
Example collate(std::vector<Example> examples) {
  std::vector<std::vector<at::Tensor>> columns;
  std::string structure;
  internal::describe_structure(examples.front(), structure);
  for (size_t i = 0; i < examples.size(); ++i) {
    std::string other;
    internal::describe_structure(examples[i], other);
    if (other != structure) internal::throw_unequal_structure(i, other, structure);
    size_t column = 0;
    internal::for_each_tensor(examples[i], [&](at::Tensor& tensor) {
      if (columns.size() <= column) columns.emplace_back();
      columns[column++].push_back(tensor);
    });
  }
  size_t column = 0;
  internal::for_each_tensor(examples.front(), [&](at::Tensor& tensor) {
    tensor = internal::stack_column(columns[column], column);
    ++column;
  });
  return std::move(examples.front());
}

}  // namespace accelerate
