#include "accelerate/data/batch_memory.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/DimVector.h>

#include <algorithm>

namespace accelerate {
namespace {

/// Where a tensor may begin: every dtype's size divides it, and vector instructions like it.
constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

int64_t BatchMemory::bytes_of(const at::Tensor& tensor) { return aligned(static_cast<int64_t>(tensor.nbytes())); }

int64_t BatchMemory::left() const { return bytes_.defined() ? bytes_.numel() - used_ : 0; }

bool BatchMemory::has(const at::Tensor& tensor) const {
  return bytes_.defined() && tensor.storage().is_alias_of(bytes_.storage());
}

at::Tensor BatchMemory::empty(at::IntArrayRef sizes, at::ScalarType dtype) {
  const at::TensorOptions options = at::TensorOptions(dtype).device(at::kCPU);
  c10::DimVector strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  at::Tensor tensor = take(sizes, strides, options);
  return tensor.defined() ? tensor : at::empty(sizes, options);
}

at::Tensor BatchMemory::take(at::IntArrayRef sizes, at::IntArrayRef strides, const at::TensorOptions& options) {
  const auto size = static_cast<int64_t>(options.dtype().itemsize());
  const int64_t bytes = aligned(c10::multiply_integers(sizes) * size);
  if (!bytes_.defined() || bytes > left()) return {};
  const c10::InferenceMode normal(false);  // the memory is
  // Past the dispatcher: through it, making an empty tensor and giving it memory takes longer than copying a small one.
  at::Tensor tensor = at::detail::make_tensor<at::TensorImpl>(
      c10::Storage(bytes_.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), options.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, (bytes_.storage_offset() + used_) / size);
  used_ += bytes;
  return tensor;
}

}  // namespace accelerate
