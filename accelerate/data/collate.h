#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "accelerate/tensor/tree.h"

namespace accelerate {
namespace internal {

/// Examples with tensors only: anything else (a number, a text) has no stacked form of the same type.
template <class T>
consteval bool stackable() {
  if constexpr (std::is_same_v<T, at::Tensor> || CustomFlatten<T>) {
    return true;
  } else if constexpr (is_optional<T>) {
    return stackable<typename T::value_type>();
  } else if constexpr (TupleLike<T>) {
    return []<class... E>(std::type_identity<std::tuple<E...>>) {
      return (stackable<std::remove_cvref_t<E>>() && ...);
    }(std::type_identity<decltype(elements_as_tuple<T>(std::make_index_sequence<std::tuple_size_v<T>>{}))>{});
  } else if constexpr (MapLike<T>) {
    return stackable<typename T::mapped_type>();
  } else if constexpr (ListLike<T>) {
    return stackable<typename T::value_type>();
  } else if constexpr (AggregateStruct<T>) {
    return []<class... E>(std::type_identity<std::tuple<E...>>) {
      return (stackable<std::remove_cvref_t<E>>() && ...);
    }(std::type_identity<decltype(tie_fields(std::declval<T&>()))>{});
  } else {
    return false;
  }
}

/// Writes down everything of a value's structure that its type leaves open: keys, lengths, which optionals are present.
template <class T>
void describe_structure(const T& value, std::string& out) {
  if constexpr (is_optional<T>) {
    out += value ? "?" : "-";
    if (value) describe_structure(*value, out);
  } else if constexpr (std::is_same_v<T, at::Tensor>) {
    out += "t";
  } else if constexpr (CustomFlatten<T>) {
    out += "(";
    for_each_tensor(value, [&](at::Tensor&) { out += "t"; });
    out += ")";
  } else if constexpr (TupleLike<T>) {
    std::apply([&](const auto&... element) { (describe_structure(element, out), ...); }, value);
  } else if constexpr (MapLike<T>) {
    out += "{";
    for (const auto& [key, element] : value) {
      using Key = std::remove_cvref_t<decltype(key)>;
      if constexpr (Text<Key>) {
        out += std::string(std::string_view(key)) + ":";
      } else if constexpr (std::is_enum_v<Key>) {
        out += std::to_string(static_cast<std::underlying_type_t<Key>>(key)) + ":";
      } else {
        static_assert(std::is_arithmetic_v<Key>,
                      "accelerate: maps are stacked by key, and the keys have to be texts, numbers or enumerators.");
        out += std::to_string(key) + ":";
      }
      describe_structure(element, out);
    }
    out += "}";
  } else if constexpr (ListLike<T>) {
    out += "[";
    for (const auto& element : value) describe_structure(element, out);
    out += "]";
  } else if constexpr (AggregateStruct<T>) {
    std::apply([&](const auto&... field) { (describe_structure(field, out), ...); }, tie_fields(value));
  }
}

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
