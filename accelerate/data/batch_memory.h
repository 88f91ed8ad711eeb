#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace accelerate {

/// Where the tensors of one batch may be made so that a device copies from them directly: memory of the host that is
/// pinned, and used again for a later batch. A data set whose `get_batch` takes it as second argument spares a copy of
/// the batch on the host; what it makes here must not be kept.
class BatchMemory {
 public:
  /// None: every tensor is an ordinary one.
  BatchMemory() = default;
  /// All of `bytes`, a contiguous tensor of the CPU.
  explicit BatchMemory(at::Tensor bytes) : bytes_(std::move(bytes)) {}

  /// A contiguous tensor of the CPU without values; where too little is left, an ordinary one.
  at::Tensor empty(at::IntArrayRef sizes, at::ScalarType dtype);

  /// The same with strides that leave no gaps; undefined where too little is left.
  at::Tensor take(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options);
  /// Whether `tensor` lies here.
  bool has(const at::Tensor& tensor) const;
  /// Bytes.
  int64_t left() const;
  /// What a tensor takes: its bytes, rounded up to where the next one may begin.
  static int64_t bytes_of(const at::Tensor& tensor);

 private:
  at::Tensor bytes_;
  int64_t used_ = 0;
};

}  // namespace accelerate
