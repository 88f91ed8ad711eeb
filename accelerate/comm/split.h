#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <iterator>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/comm/share.h"
#include "accelerate/tensor/tree.h"

namespace accelerate {

struct SplitOptions {
  bool apply_padding = false;  ///< shorter shares are filled up with the last element of all, so that all are equal
};

namespace internal {

template <class T>
consteval bool splits();

template <class... T>
consteval bool splits_any(std::type_identity<std::tuple<T...>>) {
  return (splits<std::remove_cvref_t<T>>() || ...);
}

/// Whether a value of this type has a part that can be shared out: a tensor or a list, nested or not.
template <class T>
consteval bool splits() {
  if constexpr (std::is_same_v<T, at::Tensor> || CustomFlatten<T>) {
    return true;
  } else if constexpr (Plain<T>) {
    return false;
  } else if constexpr (is_optional<T>) {
    return splits<typename T::value_type>();
  } else if constexpr (is_variant<T>) {
    return []<class... E>(std::type_identity<std::variant<E...>>) {
      return splits_any(std::type_identity<std::tuple<E...>>{});
    }(std::type_identity<T>{});
  } else if constexpr (TupleLike<T>) {
    return splits_any(
        std::type_identity<decltype(elements_as_tuple<T>(std::make_index_sequence<std::tuple_size_v<T>>{}))>{});
  } else if constexpr (MapLike<T>) {
    return splits<typename T::mapped_type>();
  } else if constexpr (ListLike<T>) {
    return true;
  } else if constexpr (AggregateStruct<T>) {
    return splits_any(std::type_identity<decltype(tie_fields(std::declval<T&>()))>{});
  } else {
    return false;
  }
}

/// The length that all parts of one value have.
class CommonLength {
 public:
  /// Throws UsageError when it differs from what was added before.
  void add(int64_t length) {
    if (parts_ > 0 && length != length_) throw_unequal(length);
    length_ = length;
    ++parts_;
  }
  /// Throws UsageError for a tensor without a dimension; undefined ones have no length.
  void add(const at::Tensor& tensor);
  /// 0 where no part has one.
  int64_t value() const { return length_; }

 private:
  [[noreturn]] void throw_unequal(int64_t length) const;
  int64_t length_ = 0;
  int64_t parts_ = 0;
};

/// Lists and tensors are parts; maps, tuples and structs are made of parts.
template <class T>
void measure(const T& value, CommonLength& length) {
  if constexpr (std::is_same_v<T, at::Tensor>) {
    length.add(value);
  } else if constexpr (CustomFlatten<T>) {
    for_each_tensor(value, [&](const at::Tensor& tensor) { length.add(tensor); });
  } else if constexpr (!splits<T>()) {
    return;
  } else if constexpr (is_optional<T>) {
    if (value) measure(*value, length);
  } else if constexpr (is_variant<T>) {
    std::visit([&](const auto& alternative) { measure(alternative, length); }, value);
  } else if constexpr (TupleLike<T>) {
    std::apply([&](const auto&... element) { (measure(element, length), ...); }, value);
  } else if constexpr (MapLike<T>) {
    for (const auto& [key, element] : value) measure(element, length);
  } else if constexpr (ListLike<T>) {
    length.add(static_cast<int64_t>(value.size()));
  } else {
    std::apply([&](const auto&... field) { (measure(field, length), ...); }, tie_fields(value));
  }
}

/// What is taken of every part.
struct Cut {
  Share share;
  bool pad = false;
  bool is_all(int64_t length) const { return share.begin == 0 && share.end == length; }
  int64_t missing() const { return pad ? share.longest - share.size() : 0; }
};

at::Tensor cut_tensor(const at::Tensor& tensor, const Cut& cut);
[[noreturn]] void throw_not_padded();

template <class T>
T cut_list(const T& list, const Cut& cut) {
  const auto at = [&](int64_t index) { return std::next(list.begin(), index); };
  static_assert(std::is_constructible_v<T, decltype(list.begin()), decltype(list.begin())>,
                "accelerate: split_between_processes() makes a list of the same type from a part of it, and this one "
                "cannot be built from two iterators.");
  T own(at(cut.share.begin), at(cut.share.end));
  if (cut.missing() == 0) return own;
  if constexpr (requires { own.insert(own.end(), *list.begin()); }) {
    const auto last = at(static_cast<int64_t>(list.size()) - 1);
    for (int64_t i = 0; i < cut.missing(); ++i) own.insert(own.end(), *last);
  }
  if (static_cast<int64_t>(own.size()) != cut.share.longest) throw_not_padded();
  return own;
}

template <class T>
T cut_value(const T& value, const Cut& cut) {
  if constexpr (std::is_same_v<T, at::Tensor>) {
    return cut_tensor(value, cut);
  } else if constexpr (!splits<T>()) {
    return value;
  } else if constexpr (ListLike<T>) {
    return cut_list(value, cut);
  } else {
    T own = value;
    if constexpr (CustomFlatten<T>) {
      for_each_tensor(own, [&](at::Tensor& tensor) { tensor = cut_tensor(tensor, cut); });
    } else if constexpr (is_optional<T>) {
      if (own) *own = cut_value(*value, cut);
    } else if constexpr (is_variant<T>) {
      std::visit([&](auto& alternative) { alternative = cut_value(alternative, cut); }, own);
    } else if constexpr (TupleLike<T>) {
      std::apply([&](auto&... element) { ((element = cut_value(element, cut)), ...); }, own);
    } else if constexpr (MapLike<T>) {
      for (auto& [key, element] : own) element = cut_value(element, cut);
    } else {
      std::apply([&](auto&... field) { ((field = cut_value(field, cut)), ...); }, tie_fields(own));
    }
    return own;
  }
}

/// The indices of this process's share of `rows` examples; the last one is repeated to fill up.
std::vector<int64_t> split_rows(int64_t rows, const World& world, const SplitOptions& options);

/// This process's share of `value`; in one process a copy of all of it.
template <class T>
T split(const T& value, const World& world, const SplitOptions& options) {
  static_assert(splits<T>(),
                "accelerate: split_between_processes() takes tensors and lists, and tuples, maps and structs of "
                "these; there is nothing in this type to share out. Put texts or numbers into a std::vector.");
  CommonLength length;
  measure(value, length);
  const Cut cut{.share = share_of_process(length.value(), world), .pad = options.apply_padding};
  return cut.is_all(length.value()) && cut.missing() == 0 ? value : cut_value(value, cut);
}

}  // namespace internal
}  // namespace accelerate
