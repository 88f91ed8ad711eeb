#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "accelerate/tensor/tree.h"

namespace accelerate::internal {

/// Values with tensors only: anything else (a number, a text) has no stacked or concatenated form of the same type.
template <class T>
consteval bool stackable() {
  if constexpr (std::is_same_v<T, at::Tensor> || CustomFlatten<T>) {
    return true;
  } else if constexpr (is_optional<T>) {
    return stackable<typename T::value_type>();
  } else if constexpr (is_variant<T>) {
    return []<class... E>(std::type_identity<std::variant<E...>>) {
      return (stackable<E>() && ...);
    }(std::type_identity<T>{});
  } else if constexpr (TupleLike<T>) {
    return []<class... E>(std::type_identity<std::tuple<E...>>) {
      return (stackable<std::remove_cvref_t<E>>() && ...);
    }(std::type_identity<decltype(elements_as_tuple<T>(std::make_index_sequence<std::tuple_size_v<T>>{}))>{});
  } else if constexpr (MapLike<T>) {
    return stackable<typename T::mapped_type>();
  } else if constexpr (ListLike<T>) {
    return stackable<typename T::value_type>();
  } else if constexpr (Record<T>) {
    return []<class... E>(std::type_identity<std::tuple<E...>>) {
      return (stackable<std::remove_cvref_t<E>>() && ...);
    }(std::type_identity<decltype(fields_of(std::declval<T&>()))>{});
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
  } else if constexpr (is_variant<T>) {
    out += "<" + std::to_string(value.index()) + ">";
    std::visit([&](const auto& alternative) { describe_structure(alternative, out); }, value);
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
  } else if constexpr (Record<T>) {
    std::apply([&](const auto&... field) { (describe_structure(field, out), ...); }, fields_of(value));
  }
}

}  // namespace accelerate::internal
