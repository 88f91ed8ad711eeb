#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "accelerate/tensor/tree.h"

namespace accelerate {

/// What a tensor is without its elements. Source: `accelerate.utils.TensorInformation`.
struct TensorInformation {
  std::vector<int64_t> shape = {};
  c10::ScalarType dtype = c10::ScalarType::Undefined;  ///< of an undefined tensor
  bool operator==(const TensorInformation&) const = default;
};

/// A value without the elements of its tensors; small, and can be sent with `broadcast_object_list`.
template <class T>
struct DataStructure {
  T value;                                 ///< its tensors are undefined
  std::vector<TensorInformation> tensors;  ///< in the order in which they are found
};

namespace internal {

TensorInformation information_of(const at::Tensor& tensor);
at::Tensor initialized(const TensorInformation& information);
/// On the CPU, contiguous, in the dtype that holds every number of `tensor`: int64, double or as given if complex.
at::Tensor readable(const at::Tensor& tensor);
[[noreturn]] void throw_other_depth(const at::Tensor& tensor, int64_t depth);
[[noreturn]] void throw_fraction(const at::Tensor& tensor);

template <class To>
inline constexpr int64_t list_depth = 0;
template <class E>
inline constexpr int64_t list_depth<std::vector<E>> = 1 + list_depth<E>;

template <class To>
To list_of(const at::Tensor& tensor) {
  if constexpr (std::is_arithmetic_v<To>) {
    if (tensor.is_floating_point()) return static_cast<To>(tensor.item<double>());
    return static_cast<To>(tensor.item<int64_t>());
  } else {
    To list;
    for (int64_t i = 0; i < tensor.size(0); ++i) list.push_back(list_of<typename To::value_type>(tensor[i]));
    return list;
  }
}

template <class To>
struct Leaf {
  using type = To;
};
template <class E>
struct Leaf<std::vector<E>> : Leaf<E> {};

}  // namespace internal

/// What `value` is made of; `initialize_tensors` makes a value of the same form.
/// Source: `accelerate.utils.get_data_structure`.
template <class T>
DataStructure<T> get_data_structure(T value) {
  DataStructure<T> structure{std::move(value), {}};
  for (at::Tensor* tensor : internal::tensors_of(structure.value)) {
    structure.tensors.push_back(internal::information_of(*tensor));
    *tensor = at::Tensor();
  }
  return structure;
}

/// A value of that structure, its tensors on the CPU with whatever was in memory.
/// Source: `accelerate.utils.initialize_tensors`.
template <class T>
T initialize_tensors(DataStructure<T> structure) {
  size_t i = 0;
  for (at::Tensor* tensor : internal::tensors_of(structure.value)) {
    *tensor = internal::initialized(structure.tensors.at(i++));
  }
  return std::move(structure.value);
}

/// The shapes of the tensors of `value`, in the order in which they are found. Source: `accelerate.utils.get_shape`.
template <class T>
std::vector<std::vector<int64_t>> get_shape(const T& value) {
  std::vector<std::vector<int64_t>> shapes;
  for (const at::Tensor* tensor : internal::tensors_of(value)) {
    shapes.push_back(internal::information_of(*tensor).shape);
  }
  return shapes;
}

/// The numbers of a tensor as nested vectors, `listify<std::vector<std::vector<float>>>(matrix)`, or as a number.
/// Throws UsageError for a tensor of other dimensions and for fractions in a list of whole numbers. Lists, tuples and
/// maps of tensors become the same of lists: `listify<std::map<std::string, double>>(metrics)`.
/// Source: `accelerate.utils.listify`.
template <class To, class From>
To listify(const From& value) {
  if constexpr (std::is_same_v<From, at::Tensor>) {
    constexpr int64_t depth = internal::list_depth<To>;
    using Number = typename internal::Leaf<To>::type;
    static_assert(std::is_arithmetic_v<Number>,
                  "accelerate: listify<To>() gives numbers or nested vectors of numbers.");
    if (!value.defined() || value.dim() != depth) internal::throw_other_depth(value, depth);
    const at::Tensor numbers = internal::readable(value);
    if constexpr (std::is_integral_v<Number>) {
      if (numbers.is_floating_point()) internal::throw_fraction(value);
    }
    return internal::list_of<To>(numbers);
  } else if constexpr (internal::TupleLike<From>) {
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return To{listify<std::tuple_element_t<I, To>>(std::get<I>(value))...};
    }
    (std::make_index_sequence<std::tuple_size_v<From>>{});
  } else if constexpr (internal::MapLike<From>) {
    To lists;
    for (const auto& [key, element] : value) lists.emplace(key, listify<typename To::mapped_type>(element));
    return lists;
  } else if constexpr (internal::ListLike<From>) {
    To lists;
    for (const auto& element : value) lists.push_back(listify<typename To::value_type>(element));
    return lists;
  } else {
    return To(value);
  }
}

}  // namespace accelerate
