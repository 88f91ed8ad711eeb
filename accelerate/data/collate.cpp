#include "accelerate/data/collate.h"

#include <ATen/ATen.h>

#include <sstream>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  std::ostringstream out;
  out << tensor.scalar_type() << " " << tensor.sizes();
  return out.str();
}

}  // namespace

at::Tensor stack_column(const std::vector<at::Tensor>& column, size_t tensor) {
  const at::Tensor& first = column.front();
  for (size_t i = 0; i < column.size(); ++i) {
    const at::Tensor& other = column[i];
    const bool fits = other.defined() && first.sizes() == other.sizes() && first.scalar_type() == other.scalar_type();
    if (fits) continue;
    throw DataError({.place = "DataLoader",
                     .what = "Examples of one batch cannot be stacked",
                     .got = describe(other) + " as tensor " + std::to_string(tensor) + " of example " +
                            std::to_string(i) + " of the batch",
                     .expected = i == 0 ? "a defined tensor" : describe(first) + " as in example 0",
                     .remedy = "Give all examples one shape and dtype, or pass a collate function that pads them"});
  }
  return at::stack(column);
}

void throw_unequal_structure(size_t example, const std::string& got, const std::string& expected) {
  throw DataError({.place = "DataLoader",
                   .what = "Examples of one batch differ in keys, lengths or optional parts",
                   .got = "structure \"" + got + "\" in example " + std::to_string(example) + " of the batch",
                   .expected = "\"" + expected + "\" as in example 0",
                   .remedy = "Give all examples one structure, or pass a collate function"});
}

}  // namespace accelerate::internal
