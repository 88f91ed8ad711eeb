#include "accelerate/precision/cast_argument.h"

namespace accelerate::internal {

at::Tensor in_dtype(const at::Tensor& tensor, at::ScalarType dtype) {
  if (!tensor.defined()) return tensor;
  switch (tensor.scalar_type()) {
    case at::kDouble:
    case at::kFloat:
    case at::kBFloat16:
    case at::kHalf:
      return tensor.to(dtype);
    default:
      return tensor;
  }
}

}  // namespace accelerate::internal
