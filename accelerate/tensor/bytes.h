#pragma once

#include <ATen/core/Tensor.h>

#include <complex>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "accelerate/tensor/tree.h"

namespace accelerate {

class ByteWriter;
class ByteReader;

/// Customisation point: how a type of yours travels between processes. Specialise it with
///
///   static void write(accelerate::ByteWriter& out, const YourType& value) { out.add(value.name()); }
///   static YourType read(accelerate::ByteReader& in) { return YourType(in.get<std::string>()); }
template <class T>
struct Serialize;

namespace internal {

template <class T>
concept CustomSerialize = requires(ByteWriter& out, ByteReader& in, const T& value) {
  Serialize<T>::write(out, value);
  Serialize<T>::read(in);
};
template <class T>
inline constexpr bool is_complex = false;
template <class T>
inline constexpr bool is_complex<std::complex<T>> = true;
/// Those whose bytes are their value.
template <class T>
concept Scalar = std::is_arithmetic_v<T> || std::is_enum_v<T> || is_complex<T>;

/// Whether values of the type can be turned into bytes and back; decided from the type alone.
template <class T>
consteval bool travels() {
  constexpr auto all = []<class... E>(std::type_identity<std::tuple<E...>>) {
    return (travels<std::remove_cvref_t<E>>() && ...);
  };
  if constexpr (CustomSerialize<T> || Scalar<T> || std::is_same_v<T, std::string> || std::is_same_v<T, at::Tensor> ||
                std::is_same_v<T, std::monostate>) {
    return true;
  } else if constexpr (Text<T> || std::is_pointer_v<T>) {
    return false;  // borrowed
  } else if constexpr (is_optional<T>) {
    return travels<typename T::value_type>();
  } else if constexpr (is_variant<T>) {
    return []<class... E>(std::type_identity<std::variant<E...>>) {
      return (travels<E>() && ...);
    }(std::type_identity<T>{});
  } else if constexpr (TupleLike<T>) {
    return all(std::type_identity<decltype(elements_as_tuple<T>(std::make_index_sequence<std::tuple_size_v<T>>{}))>{});
  } else if constexpr (MapLike<T>) {
    return travels<typename T::key_type>() && travels<typename T::mapped_type>();
  } else if constexpr (ListLike<T>) {
    return travels<typename T::value_type>();
  } else if constexpr (Record<T>) {
    return all(std::type_identity<decltype(fields_of(std::declval<T&>()))>{});
  } else {
    return false;
  }
}

void write_tensor(ByteWriter& out, const at::Tensor& tensor);
at::Tensor read_tensor(ByteReader& in);
[[noreturn]] void throw_bytes_missing(size_t wanted, size_t left);
template <class T>
void write_value(ByteWriter& out, const T& value);
template <class T>
void read_value(ByteReader& in, T& value);

}  // namespace internal

/// Values one after the other as bytes, the way this machine holds them: they are for processes of one program.
class ByteWriter {
 public:
  /// Texts, numbers, enumerators, tensors, optional, variant, tuple, pair, array, vector, set, map, aggregates of up to
  /// 12 fields, any nesting of these, and what `Serialize` is specialised for.
  template <class T>
  void add(const T& value) {
    static_assert(internal::travels<T>(),
                  "accelerate: values of this type cannot be turned into bytes. Use a text, number, tensor, tuple, "
                  "vector, map, optional or aggregate struct, or specialise accelerate::Serialize<YourType>.");
    if constexpr (internal::travels<T>()) internal::write_value(*this, value);
  }
  /// Bytes as they are, without their number.
  void raw(std::string_view bytes) { bytes_.append(bytes); }
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// What a ByteWriter wrote, in the same order. Throws DataError where the bytes end too early.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T get() {
    if constexpr (internal::CustomSerialize<T>) {
      return Serialize<T>::read(*this);
    } else {
      T value{};
      internal::read_value(*this, value);
      return value;
    }
  }
  std::string_view raw(size_t count) {
    if (count > bytes_.size()) internal::throw_bytes_missing(count, bytes_.size());
    const std::string_view bytes = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return bytes;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

namespace internal {

template <class T>
void write_value(ByteWriter& out, const T& value) {
  if constexpr (CustomSerialize<T>) {
    Serialize<T>::write(out, value);
  } else if constexpr (Scalar<T>) {
    out.raw({reinterpret_cast<const char*>(&value), sizeof value});
  } else if constexpr (std::is_same_v<T, std::string>) {
    out.add(static_cast<uint64_t>(value.size()));
    out.raw(value);
  } else if constexpr (std::is_same_v<T, at::Tensor>) {
    write_tensor(out, value);
  } else if constexpr (is_optional<T>) {
    out.add(value.has_value());
    if (value) out.add(*value);
  } else if constexpr (is_variant<T>) {
    out.add(static_cast<uint64_t>(value.index()));
    std::visit([&](const auto& alternative) { out.add(alternative); }, value);
  } else if constexpr (TupleLike<T>) {
    std::apply([&](const auto&... element) { (out.add(element), ...); }, value);
  } else if constexpr (MapLike<T>) {
    out.add(static_cast<uint64_t>(value.size()));
    for (const auto& [key, element] : value) {
      out.add(key);
      out.add(element);
    }
  } else if constexpr (ListLike<T>) {
    out.add(static_cast<uint64_t>(value.size()));
    for (const auto& element : value) out.add(static_cast<const typename T::value_type&>(element));
  } else if constexpr (!std::is_same_v<T, std::monostate>) {
    std::apply([&](const auto&... field) { (out.add(field), ...); }, fields_of(value));
  }
}

template <class T, size_t... I>
void read_alternative(ByteReader& in, T& value, std::index_sequence<I...>) {
  const auto index = in.get<uint64_t>();
  const auto take = [&](auto type) { value = in.get<typename decltype(type)::type>(); };
  ((index == I ? take(std::type_identity<std::variant_alternative_t<I, T>>{}) : static_cast<void>(0)), ...);
}

template <class T>
void read_value(ByteReader& in, T& value) {
  if constexpr (CustomSerialize<T>) {
    value = Serialize<T>::read(in);
  } else if constexpr (Scalar<T>) {
    std::memcpy(&value, in.raw(sizeof value).data(), sizeof value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = in.raw(in.get<uint64_t>());
  } else if constexpr (std::is_same_v<T, at::Tensor>) {
    value = read_tensor(in);
  } else if constexpr (is_optional<T>) {
    if (in.get<bool>()) value = in.get<typename T::value_type>();
  } else if constexpr (is_variant<T>) {
    read_alternative(in, value, std::make_index_sequence<std::variant_size_v<T>>{});
  } else if constexpr (TupleLike<T>) {
    std::apply([&](auto&... element) { (read_value(in, element), ...); }, value);
  } else if constexpr (MapLike<T>) {
    for (auto left = in.get<uint64_t>(); left > 0; --left) {
      auto key = in.get<typename T::key_type>();
      value.emplace(std::move(key), in.get<typename T::mapped_type>());
    }
  } else if constexpr (ListLike<T>) {
    for (auto left = in.get<uint64_t>(); left > 0; --left) value.insert(value.end(), in.get<typename T::value_type>());
  } else if constexpr (!std::is_same_v<T, std::monostate>) {
    std::apply([&](auto&... field) { (read_value(in, field), ...); }, fields_of(value));
  }
}

template <class T>
std::string to_bytes(const T& value) {
  ByteWriter out;
  out.add(value);
  return out.take();
}

template <class T>
T from_bytes(std::string_view bytes) {
  return ByteReader(bytes).get<T>();
}

}  // namespace internal
}  // namespace accelerate
