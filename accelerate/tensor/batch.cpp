#include "accelerate/tensor/batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::string shape_of(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  std::ostringstream out;
  out << tensor.sizes() << " " << tensor.scalar_type();
  return out.str();
}

/// Whether the two can stand in one row along `dim`.
bool fits(const at::Tensor& a, const at::Tensor& b, int64_t dim) {
  if (!b.defined() || a.dim() != b.dim() || a.device() != b.device()) return false;
  for (int64_t i = 0; i < a.dim(); ++i) {
    if (i != dim && a.size(i) != b.size(i)) return false;
  }
  return true;
}

[[noreturn]] void throw_no_dimension(const char* place, const at::Tensor& tensor, int64_t dim) {
  throw UsageError({.place = place,
                    .what = "The tensor has no such dimension",
                    .got = "dimension " + std::to_string(dim) + " of a tensor of shape " + shape_of(tensor),
                    .expected = "one that every tensor of the value has",
                    .remedy = "Give tensors without one a dimension of size 1 with unsqueeze(0)"});
}

int64_t dimension(const char* place, const at::Tensor& tensor, int64_t dim) {
  if (dim < -tensor.dim() || dim >= tensor.dim()) throw_no_dimension(place, tensor, dim);
  return dim < 0 ? dim + tensor.dim() : dim;
}

}  // namespace

std::optional<int64_t> batch_size_of(std::span<const at::Tensor* const> tensors) {
  const auto first = std::ranges::find_if(tensors, [](const at::Tensor* tensor) { return tensor->defined(); });
  if (first == tensors.end()) return std::nullopt;
  return (*first)->size(dimension("find_batch_size", **first, 0));
}

void throw_no_batch_size() {
  throw UsageError({.place = "find_batch_size",
                    .what = "The value has no batch size",
                    .got = "no tensor",
                    .expected = "at least one",
                    .remedy = "Pass the batch, or call ignorant_find_batch_size()"});
}

at::Tensor sliced(const at::Tensor& tensor, const TensorSlice& slice) {
  if (!tensor.defined()) return tensor;
  if (slice.step < 1) {
    throw UsageError({.place = "slice_tensors",
                      .what = "The step is not positive",
                      .got = ".step = " + std::to_string(slice.step),
                      .expected = "1 or more",
                      .remedy = "Turn the tensor around with flip(0) first"});
  }
  return tensor.slice(dimension("slice_tensors", tensor, 0), slice.start, slice.stop, slice.step);
}

at::Tensor concatenated(const std::vector<at::Tensor>& parts, size_t which, const ConcatenateOptions& options) {
  const at::Tensor& first = parts.front();
  if (!first.defined() && std::ranges::none_of(parts, [](const at::Tensor& part) { return part.defined(); })) {
    return first;
  }
  const int64_t dim = first.defined() ? dimension("concatenate", first, options.dim) : 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (first.defined() && fits(first, parts[i], dim)) continue;
    throw DataError({.place = "concatenate",
                     .what = "Tensor " + std::to_string(which) + " of item " + std::to_string(i) +
                             " does not fit to that of item 0",
                     .got = shape_of(parts[i]),
                     .expected = shape_of(first) + ", except along dimension " + std::to_string(dim),
                     .remedy = "Bring the items to one shape first"});
  }
  return at::cat(parts, dim);
}

void throw_nothing_to_concatenate() {
  throw UsageError({.place = "concatenate",
                    .what = "There is nothing to concatenate",
                    .got = "an empty list",
                    .expected = "one item or more",
                    .remedy = "Ask whether it is empty before"});
}

void throw_only_tensors_concatenate() {
  throw UsageError({.place = "concatenate",
                    .what = "Only tensors can be concatenated",
                    .got = "several items with numbers, texts or other things in them",
                    .expected = "tensors, nested as you like",
                    .remedy = "Concatenate a part of the items, or put the numbers into tensors"});
}

void throw_other_structure(size_t item, const std::string& got, const std::string& expected) {
  throw DataError({.place = "concatenate",
                   .what = "Item " + std::to_string(item) + " is built differently from item 0",
                   .got = "\"" + got + "\"",
                   .expected = "\"" + expected + "\"",
                   .remedy = "Give all items the same keys, lengths and optional parts"});
}

at::Tensor padded_input(const at::Tensor& tensor, const PadInputOptions& options) {
  if (!tensor.defined()) return tensor;
  if (options.num_processes < 1) {
    throw UsageError({.place = "pad_input_tensors",
                      .what = "The number of processes is not positive",
                      .got = ".num_processes = " + std::to_string(options.num_processes),
                      .expected = "1 or more",
                      .remedy = "Pass accelerator.num_processes()"});
  }
  const int64_t dim = dimension("pad_input_tensors", tensor, options.dim);
  const int64_t size = tensor.size(dim);
  if (size != options.batch_size || size == 0) {
    throw UsageError(
        {.place = "pad_input_tensors",
         .what = size == 0 ? "There is no entry to repeat" : "The tensor has another size",
         .got = "a tensor of shape " + shape_of(tensor) + " and .batch_size = " + std::to_string(options.batch_size),
         .expected = size == 0 ? "at least one entry" : "tensors of that size",
         .remedy = "Pass find_batch_size(value) as .batch_size, and nothing that has no batch"});
  }
  const int64_t missing = (options.num_processes - size % options.num_processes) % options.num_processes;
  if (missing == 0) return tensor;
  std::vector<int64_t> shape = tensor.sizes().vec();
  shape[static_cast<size_t>(dim)] = missing;
  return at::cat({tensor, tensor.narrow(dim, size - 1, 1).expand(shape)}, dim);
}

}  // namespace accelerate::internal
