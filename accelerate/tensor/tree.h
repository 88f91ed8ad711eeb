#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/tensor/reflect.h"

namespace accelerate {

/// Customisation point: how a type of yours is flattened into tensors. Specialise it with
/// `template <class V> static void for_each(YourType& value, V&& visit)`, calling `visit` on every `at::Tensor` in a
/// fixed order.
template <class T>
struct Flatten;

namespace internal {

template <class T>
concept CustomFlatten = requires(T& value) {
  Flatten<T>::for_each(value, [](at::Tensor&) {});
};
template <class T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
};
template <class T>
concept MapLike = requires(T& t) {
  typename T::mapped_type;
  t.begin();
};
template <class T>
concept Text = std::is_convertible_v<const T&, std::string_view>;
template <class T>
concept ListLike = !MapLike<T> && !TupleLike<T> && !Text<T> && requires(T & t) {
  typename T::value_type;
  t.begin();
  t.end();
  t.size();
};
template <class T>
concept Plain = std::is_arithmetic_v<T> || std::is_enum_v<T> || Text<T> || std::is_same_v<T, std::monostate> ||
    std::is_same_v<T, std::nullopt_t>;
template <class T>
concept AggregateStruct = std::is_aggregate_v<T> && std::is_class_v<T> && !TupleLike<T> && !ListLike<T> && !MapLike<T>;
/// `torch::data::Example`, known by its members: its header costs more than this whole library's.
template <class T>
concept ExampleLike = requires(T& t) {
  typename T::DataType;
  typename T::TargetType;
  t.data;
};
template <class T>
concept Record = AggregateStruct<T> || ExampleLike<T>;

/// The fields of a record as a tuple of references.
template <class T>
constexpr auto fields_of(T& t) {
  if constexpr (!ExampleLike<std::remove_const_t<T>>) {
    return tie_fields(t);
  } else if constexpr (std::is_void_v<typename T::TargetType>) {
    return std::tie(t.data);
  } else {
    return std::tie(t.data, t.target);
  }
}

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;
template <class T>
inline constexpr bool is_variant = false;
template <class... T>
inline constexpr bool is_variant<std::variant<T...>> = true;

enum class Contents { kOpaque, kNoTensors, kTensors };

template <class T>
consteval Contents contents();

template <class... T>
consteval Contents contents_of_all() {
  bool opaque = false, tensors = false;
  ((opaque |= contents<T>() == Contents::kOpaque, tensors |= contents<T>() == Contents::kTensors), ...);
  return opaque ? Contents::kOpaque : tensors ? Contents::kTensors : Contents::kNoTensors;
}

template <class T>
consteval Contents contents_of_elements() {
  return []<class... E>(std::type_identity<std::tuple<E...>>) {
    return contents_of_all<std::remove_cvref_t<E>...>();
  }(std::type_identity<T>{});
}

template <class T, size_t... I>
auto elements_as_tuple(std::index_sequence<I...>) -> std::tuple<std::tuple_element_t<I, T>...>;

/// What a traversal of `T` finds; decided from the type alone.
template <class T>
consteval Contents contents() {
  if constexpr (std::is_same_v<T, at::Tensor> || CustomFlatten<T>) {
    return Contents::kTensors;
  } else if constexpr (Plain<T>) {
    return Contents::kNoTensors;
  } else if constexpr (is_optional<T>) {
    return contents<typename T::value_type>();
  } else if constexpr (is_variant<T>) {
    return []<class... E>(std::type_identity<std::variant<E...>>) {
      return contents_of_all<E...>();
    }(std::type_identity<T>{});
  } else if constexpr (TupleLike<T>) {
    return contents_of_elements<decltype(elements_as_tuple<T>(std::make_index_sequence<std::tuple_size_v<T>>{}))>();
  } else if constexpr (MapLike<T>) {
    return contents<typename T::mapped_type>();
  } else if constexpr (ListLike<T>) {
    return contents<typename T::value_type>();
  } else if constexpr (Record<T>) {
    return contents_of_elements<decltype(fields_of(std::declval<T&>()))>();
  } else {
    return Contents::kOpaque;
  }
}

/// Types whose tensors can be visited: tensors, numbers and text (skipped), optional, variant, tuple, pair, array,
/// vector, map, aggregates of up to 12 fields, torch::data::Example, any nesting of these, and what `Flatten` is
/// specialised for.
template <class T>
concept Flattenable = contents<std::remove_cvref_t<T>>()
!= Contents::kOpaque;

/// Calls `visit(at::Tensor&)` for every tensor of `value`, in a fixed order. Undefined tensors are visited as well.
template <class T, class F>
void for_each_tensor(T& value, F&& visit) {
  using V = std::remove_const_t<T>;
  static_assert(
      Flattenable<V>,
      "accelerate: the library has to find the tensors in this type and cannot. Use a tensor, tuple, vector, map, "
      "optional or aggregate struct, or specialise accelerate::Flatten<YourType> with a static for_each().");
  if constexpr (std::is_same_v<V, at::Tensor>) {
    visit(value);
  } else if constexpr (CustomFlatten<V>) {
    Flatten<V>::for_each(const_cast<V&>(value), visit);
  } else if constexpr (contents<V>() == Contents::kNoTensors) {
    return;
  } else if constexpr (is_optional<V>) {
    if (value) for_each_tensor(*value, visit);
  } else if constexpr (is_variant<V>) {
    std::visit([&](auto& alternative) { for_each_tensor(alternative, visit); }, value);
  } else if constexpr (TupleLike<V>) {
    std::apply([&](auto&... element) { (for_each_tensor(element, visit), ...); }, value);
  } else if constexpr (MapLike<V>) {
    for (auto& [key, element] : value) for_each_tensor(element, visit);
  } else if constexpr (ListLike<V>) {
    for (auto& element : value) for_each_tensor(element, visit);
  } else if constexpr (Record<V>) {
    std::apply([&](auto&... field) { (for_each_tensor(field, visit), ...); }, fields_of(value));
  }
}

/// Pointers to the tensors of `value`, in the order in which they are visited.
template <class T>
auto tensors_of(T& value) {
  std::vector<std::conditional_t<std::is_const_v<T>, const at::Tensor*, at::Tensor*>> tensors;
  // Only looked at where the value is constant.
  for_each_tensor(const_cast<std::remove_const_t<T>&>(value), [&](at::Tensor& tensor) { tensors.push_back(&tensor); });
  return tensors;
}

/// A borrowed callable `void(at::Tensor&)`, so that typed values can be visited by code that does not know their type.
class TensorVisitor {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, TensorVisitor>) TensorVisitor(F&& f)
      : object_(const_cast<void*>(static_cast<const void*>(&f))),
        call_([](void* object, at::Tensor& tensor) { (*static_cast<std::remove_reference_t<F>*>(object))(tensor); }) {}
  void operator()(at::Tensor& tensor) const { call_(object_, tensor); }

 private:
  void* object_;
  void (*call_)(void*, at::Tensor&);
};

}  // namespace internal
}  // namespace accelerate
