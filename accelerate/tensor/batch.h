#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "accelerate/tensor/structure.h"

namespace accelerate {

/// Part of dimension 0, as Python's `slice`: negative numbers count from the end, what lies outside is cut off.
struct TensorSlice {
  int64_t start = 0;
  std::optional<int64_t> stop = {};  ///< unset: to the end
  int64_t step = 1;
};

struct ConcatenateOptions {
  int64_t dim = 0;  ///< negative: counted from the last
};

struct PadInputOptions {
  int64_t batch_size = 0;     ///< the size along `dim` of every tensor
  int64_t num_processes = 1;  ///< the size becomes the next multiple of it
  int64_t dim = 0;
};

namespace internal {

/// Nothing if there is no tensor. Throws UsageError for one without dimensions.
std::optional<int64_t> batch_size_of(std::span<const at::Tensor* const> tensors);
[[noreturn]] void throw_no_batch_size();
at::Tensor sliced(const at::Tensor& tensor, const TensorSlice& slice);
at::Tensor padded_input(const at::Tensor& tensor, const PadInputOptions& options);
/// `which` is the tensor's place in a value, for the text of the error.
at::Tensor concatenated(const std::vector<at::Tensor>& parts, size_t which, const ConcatenateOptions& options);
[[noreturn]] void throw_nothing_to_concatenate();
[[noreturn]] void throw_only_tensors_concatenate();
[[noreturn]] void throw_other_structure(size_t item, const std::string& got, const std::string& expected);

}  // namespace internal

/// The size of dimension 0 of the first tensor in `value`. Throws UsageError when there is none, or when that one has
/// no dimensions. Source: `accelerate.utils.find_batch_size`.
template <class T>
int64_t find_batch_size(const T& value) {
  if (const auto size = internal::batch_size_of(internal::tensors_of(value))) return *size;
  internal::throw_no_batch_size();
}

/// The same, nothing for a value without a tensor. Source: `accelerate.utils.ignorant_find_batch_size`.
template <class T>
std::optional<int64_t> ignorant_find_batch_size(const T& value) {
  return internal::batch_size_of(internal::tensors_of(value));
}

/// `value` with a part of dimension 0 of every tensor: views, nothing is copied. Undefined tensors stay. Throws
/// UsageError for tensors without dimensions and steps that are not positive. Source: `accelerate.utils.slice_tensors`.
template <class T>
T slice_tensors(T value, TensorSlice slice) {
  for (at::Tensor* tensor : internal::tensors_of(value)) *tensor = internal::sliced(*tensor, slice);
  return value;
}

/// One value of the same structure whose tensors are those of `values` in a row; a single value comes back as it is.
/// Throws DataError for shapes or structures that do not fit, UsageError for no value and for several that hold
/// anything but tensors. Source: `accelerate.utils.concatenate`.
template <class T>
T concatenate(std::vector<T> values, ConcatenateOptions options = {}) {
  if (values.empty()) internal::throw_nothing_to_concatenate();
  if (values.size() == 1) return std::move(values.front());
  if constexpr (!internal::stackable<T>()) internal::throw_only_tensors_concatenate();
  std::string structure;
  internal::describe_structure(values.front(), structure);
  std::vector<std::vector<at::Tensor>> columns(internal::tensors_of(values.front()).size());
  for (size_t i = 0; i < values.size(); ++i) {
    std::string other;
    internal::describe_structure(values[i], other);
    if (other != structure) internal::throw_other_structure(i, other, structure);
    size_t column = 0;
    for (const at::Tensor* tensor : internal::tensors_of(values[i])) columns[column++].push_back(*tensor);
  }
  size_t column = 0;
  for (at::Tensor* tensor : internal::tensors_of(values.front())) {
    *tensor = internal::concatenated(columns[column], column, options);
    ++column;
  }
  return std::move(values.front());
}

/// `value` with every tensor filled up along `.dim`, by repeating the last entry, until `.num_processes` divides it.
/// Throws UsageError for tensors of another size than `.batch_size`, and for one without an entry to repeat.
/// Source: `accelerate.utils.pad_input_tensors`, as its manual has it.
template <class T>
T pad_input_tensors(T value, PadInputOptions options) {
  for (at::Tensor* tensor : internal::tensors_of(value)) *tensor = internal::padded_input(*tensor, options);
  return value;
}

}  // namespace accelerate
