#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <type_traits>
#include <utility>
#include <vector>

#include "accelerate/tensor/tree.h"

namespace accelerate::internal {

/// Tensors of float64, float32, bfloat16 and float16 in `dtype`, with a graph; others are the same tensors.
at::Tensor in_dtype(const at::Tensor& tensor, at::ScalarType dtype);

/// How a call is given an argument whose tensors are to have another dtype.
enum class CastPlace {
  kNowhere,     ///< there are none to be found, or it cannot be copied
  kItself,      ///< nobody else has it
  kCopy,        ///< the caller's is constant
  kTensor,      ///< a copy of a tensor; what the call puts in its place is the caller's
  kTillTheEnd,  ///< inside; what the call leaves as it was given gets the caller's tensors again
};

template <class Arg>
consteval CastPlace cast_place() {
  using T = std::remove_reference_t<Arg>;
  if (contents<std::remove_const_t<T>>() != Contents::kTensors) return CastPlace::kNowhere;
  if (std::is_const_v<T>) return std::is_copy_constructible_v<T> ? CastPlace::kCopy : CastPlace::kNowhere;
  if (!std::is_lvalue_reference_v<Arg>) return CastPlace::kItself;
  return std::is_same_v<T, at::Tensor> ? CastPlace::kTensor : CastPlace::kTillTheEnd;
}

/// One argument of a call in another dtype, as long as this lives; `Arg` is what a forwarding reference was deduced as.
/// The caller's tensors stay what they are.
template <class Arg, CastPlace kPlace = cast_place<Arg>()>
class CastArgument {
 public:
  CastArgument(std::remove_reference_t<Arg>& given, at::ScalarType dtype) : given_(given) {
    if constexpr (kPlace == CastPlace::kItself) {
      for_each_tensor(given, [&](at::Tensor& tensor) { tensor = in_dtype(tensor, dtype); });
    }
  }
  Arg&& get() { return static_cast<Arg&&>(given_); }

 private:
  std::remove_reference_t<Arg>& given_;
};

template <class Arg>
class CastArgument<Arg, CastPlace::kCopy> {
  using T = std::remove_cvref_t<Arg>;

 public:
  CastArgument(const T& given, at::ScalarType dtype) : copy_(given) {
    for_each_tensor(copy_, [&](at::Tensor& tensor) { tensor = in_dtype(tensor, dtype); });
  }
  Arg&& get() { return static_cast<Arg&&>(copy_); }

 private:
  T copy_;
};

template <class Arg>
class CastArgument<Arg, CastPlace::kTensor> {
 public:
  CastArgument(at::Tensor& given, at::ScalarType dtype) : given_(given), cast_(in_dtype(given, dtype)), copy_(cast_) {}
  CastArgument(const CastArgument&) = delete;
  CastArgument& operator=(const CastArgument&) = delete;
  ~CastArgument() {
    if (!copy_.is_same(cast_)) given_ = std::move(copy_);
  }
  Arg&& get() { return copy_; }

 private:
  at::Tensor& given_;
  at::Tensor cast_, copy_;
};

template <class Arg>
class CastArgument<Arg, CastPlace::kTillTheEnd> {
 public:
  CastArgument(std::remove_reference_t<Arg>& given, at::ScalarType dtype) : given_(given) {
    for_each_tensor(given_, [&](at::Tensor& tensor) {
      at::Tensor cast = in_dtype(tensor, dtype);
      if (cast.is_same(tensor)) return;
      tensors_.emplace_back(std::exchange(tensor, cast), cast);
    });
  }
  CastArgument(const CastArgument&) = delete;
  CastArgument& operator=(const CastArgument&) = delete;
  ~CastArgument() {
    if (tensors_.empty()) return;
    for_each_tensor(given_, [&](at::Tensor& tensor) {
      for (auto& [own, cast] : tensors_) {
        if (tensor.is_same(cast)) tensor = own;
      }
    });
  }
  Arg&& get() { return given_; }

 private:
  std::remove_reference_t<Arg>& given_;
  std::vector<std::pair<at::Tensor, at::Tensor>> tensors_;  ///< the caller's, and what stands in for it
};

}  // namespace accelerate::internal
