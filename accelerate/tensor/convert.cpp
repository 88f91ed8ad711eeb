#include "accelerate/tensor/convert.h"

#include <ATen/ATen.h>

namespace accelerate::internal {

at::Tensor sent(const at::Tensor& tensor, c10::Device device, const SendToDeviceOptions& options) {
  return tensor.defined() ? tensor.to(device, options.non_blocking) : tensor;
}

at::Tensor without_half(const at::Tensor& tensor) {
  const bool half = tensor.defined() && (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16);
  return half ? tensor.to(at::kFloat) : tensor;
}

}  // namespace accelerate::internal
