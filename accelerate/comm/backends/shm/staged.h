#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>
#include <string>

namespace accelerate::internal::shm {

/// Throws UsageError unless `tensor` can be exchanged: dense, on the CPU.
void check_tensor(const at::Tensor& tensor, const std::string& operation);

/// A tensor's elements as contiguous memory in their logical order: the tensor itself where it is laid out like that,
/// a copy otherwise.
class Staged {
 public:
  /// Throws UsageError as check_tensor.
  Staged(const at::Tensor& tensor, const std::string& operation);

  std::byte* data() const noexcept { return data_; }
  size_t bytes() const noexcept { return bytes_; }

  /// Writes a copy back into the tensor. Only for tensors that were staged as a result.
  void finish() const;

  /// The elements are read while `other` is written: takes a copy where both share memory.
  void detach_from(const at::Tensor& other);
  /// The same for many; `storages` are those of all that is written, sorted.
  void detach_from(std::span<const c10::StorageImpl* const> storages);

 private:
  void set(at::Tensor contiguous);

  at::Tensor tensor_;  // where contiguous_ is a copy of it
  at::Tensor contiguous_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

/// For results: as Staged, and throws UsageError where elements of the tensor share memory.
Staged stage_result(const at::Tensor& tensor, const std::string& operation);

}  // namespace accelerate::internal::shm
