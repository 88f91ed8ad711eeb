#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "accelerate/tensor/tree.h"

namespace accelerate {

struct SendToDeviceOptions {
  bool non_blocking = false;                ///< copies from pinned memory go on behind the caller's back
  std::vector<std::string> skip_keys = {};  ///< of maps, at every level: what stands under them stays where it is
};

namespace internal {

at::Tensor sent(const at::Tensor& tensor, c10::Device device, const SendToDeviceOptions& options);
at::Tensor without_half(const at::Tensor& tensor);

/// Like `for_each_tensor`, but passes over what stands under one of `keys` in a map.
template <class T, class F>
void for_each_tensor_except(T& value, const std::vector<std::string>& keys, F&& visit) {
  if constexpr (std::is_same_v<T, at::Tensor> || CustomFlatten<T> || contents<T>() != Contents::kTensors) {
    for_each_tensor(value, visit);
  } else if constexpr (is_optional<T>) {
    if (value) for_each_tensor_except(*value, keys, visit);
  } else if constexpr (is_variant<T>) {
    std::visit([&](auto& alternative) { for_each_tensor_except(alternative, keys, visit); }, value);
  } else if constexpr (TupleLike<T>) {
    std::apply([&](auto&... element) { (for_each_tensor_except(element, keys, visit), ...); }, value);
  } else if constexpr (MapLike<T>) {
    for (auto& [key, element] : value) {
      if constexpr (Text<std::remove_cvref_t<decltype(key)>>) {
        if (std::find(keys.begin(), keys.end(), std::string_view(key)) != keys.end()) continue;
      }
      for_each_tensor_except(element, keys, visit);
    }
  } else if constexpr (ListLike<T>) {
    for (auto& element : value) for_each_tensor_except(element, keys, visit);
  } else {
    std::apply([&](auto&... field) { (for_each_tensor_except(field, keys, visit), ...); }, fields_of(value));
  }
}

}  // namespace internal

/// `value` with its tensors on `device`; those that are there already are the same tensors.
/// Source: `accelerate.utils.send_to_device`.
template <class T>
T send_to_device(T value, c10::Device device, const SendToDeviceOptions& options = {}) {
  internal::for_each_tensor_except(value, options.skip_keys,
                                   [&](at::Tensor& tensor) { tensor = internal::sent(tensor, device, options); });
  return value;
}

/// Where the first tensor of `value` is; nothing if there is none. Source: `accelerate.utils.find_device`.
template <class T>
std::optional<c10::Device> find_device(const T& value) {
  for (const at::Tensor* tensor : internal::tensors_of(value)) {
    if (tensor->defined()) return tensor->device();
  }
  return std::nullopt;
}

/// `value` with its float16 and bfloat16 tensors in float32; others are the same tensors.
/// Source: `accelerate.utils.convert_to_fp32`.
template <class T>
T convert_to_fp32(T value) {
  for (at::Tensor* tensor : internal::tensors_of(value)) *tensor = internal::without_half(*tensor);
  return value;
}

}  // namespace accelerate
