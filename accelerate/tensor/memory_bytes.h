#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <unordered_set>

namespace accelerate::internal {

/// Adds up the memory of tensors on one device; memory that several of them share counts once.
class MemoryCount {
 public:
  explicit MemoryCount(c10::Device device) : device_(device) {}
  void add(const at::Tensor& tensor);
  int64_t bytes() const { return bytes_; }

 private:
  c10::Device device_;
  std::unordered_set<const void*> seen_;
  int64_t bytes_ = 0;
};

}  // namespace accelerate::internal
