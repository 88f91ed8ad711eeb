#include "accelerate/comm/backends/shm/staged.h"

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal::shm {
namespace {

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "an undefined tensor";
  std::ostringstream text;
  text << tensor.layout() << " " << tensor.scalar_type() << tensor.sizes() << " on " << tensor.device();
  return text.str();
}

}  // namespace

void check_tensor(const at::Tensor& tensor, const std::string& operation) {
  if (tensor.defined() && tensor.device().is_cpu() && tensor.layout() == at::kStrided) return;
  throw UsageError({.place = operation,
                    .what = "Shared memory cannot exchange this tensor",
                    .got = describe(tensor),
                    .expected = "a dense tensor on the CPU",
                    .remedy = "Move it with .cpu(), make it dense with .to_dense(), or use another backend"});
}

Staged::Staged(const at::Tensor& tensor, const std::string& operation) {
  check_tensor(tensor, operation);
  if (tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()) {
    set(tensor);
  } else {
    tensor_ = tensor;
    const at::NoGradGuard no_grad;
    set(tensor.resolve_conj().resolve_neg().contiguous());
  }
}

void Staged::set(at::Tensor contiguous) {
  contiguous_ = std::move(contiguous);
  data_ = static_cast<std::byte*>(contiguous_.data_ptr());
  bytes_ = contiguous_.nbytes();
}

void Staged::finish() const {
  if (!tensor_.defined()) return;
  const at::NoGradGuard no_grad;
  tensor_.copy_(contiguous_);
}

void Staged::detach_from(const at::Tensor& other) {
  if (!contiguous_.is_alias_of(other)) return;
  const at::NoGradGuard no_grad;
  set(contiguous_.clone());
}

void Staged::detach_from(std::span<const c10::StorageImpl* const> storages) {
  if (!std::ranges::binary_search(storages, contiguous_.storage().unsafeGetStorageImpl())) return;
  const at::NoGradGuard no_grad;
  set(contiguous_.clone());
}

Staged stage_result(const at::Tensor& tensor, const std::string& operation) {
  Staged staged(tensor, operation);
  if (at::has_internal_overlap(tensor) == at::MemOverlap::Yes) {
    throw UsageError({.place = operation,
                      .what = "Elements of the result share memory",
                      .got = describe(tensor) + ", expanded",
                      .expected = "memory of its own for every element",
                      .remedy = "Pass a .clone()"});
  }
  return staged;
}

}  // namespace accelerate::internal::shm
