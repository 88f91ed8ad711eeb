#pragma once

#include <ATen/core/Tensor.h>

#include <concepts>
#include <utility>

namespace c10d {
class Store;
class ProcessGroup;
}  // namespace c10d

namespace accelerate {

/// A c10d object of the host program's own, held without c10d's headers.
template <class C10d>
class HostHandle {
 public:
  HostHandle() = default;
  template <class T>
  requires std::convertible_to<T*, C10d*> HostHandle(c10::intrusive_ptr<T> object)  // NOLINT: `.store = my_store`
      : object_(std::move(object)) {}
  explicit operator bool() const { return object_.defined(); }
  /// To be cast to `C10d` where that is a complete type.
  const c10::intrusive_ptr<c10::intrusive_ptr_target>& object() const { return object_; }

 private:
  c10::intrusive_ptr<c10::intrusive_ptr_target> object_;
};

using StoreHandle = HostHandle<c10d::Store>;
using ProcessGroupHandle = HostHandle<c10d::ProcessGroup>;

}  // namespace accelerate
