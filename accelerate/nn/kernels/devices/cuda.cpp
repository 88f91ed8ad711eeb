// Cross entropy on CUDA, queued on the device's current stream.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <limits>

#include "accelerate/nn/kernels/cuda.h"
#include "accelerate/nn/kernels/device.h"

namespace accelerate::internal::losses {
namespace {

Number number_of(at::ScalarType dtype) {
  if (dtype == at::kHalf) return Number::kHalf;
  return dtype == at::kBFloat16 ? Number::kBFloat16 : Number::kFloat;
}

Call call_of(const Rows& rows) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  TORCH_CHECK(rows.logits.size(0) <= kMost && rows.logits.size(1) <= kMost, "accelerate: logits are ",
              rows.logits.sizes(), ", expected less than 2^31 rows and classes");
  return {.number = number_of(rows.logits.scalar_type()),
          .rows = rows.logits.size(0),
          .classes = rows.logits.size(1),
          .stride = rows.logits.stride(0),
          .logits = rows.logits.const_data_ptr(),
          .targets = rows.targets.const_data_ptr<int64_t>(),
          .ignored = rows.ignored,
          .smoothing = static_cast<float>(rows.smoothing)};
}

cudaStream_t stream_of(const Rows& rows) { return c10::cuda::getCurrentCUDAStream(rows.logits.device().index()); }

void forward(const Rows& rows, const Statistics& out) {
  const c10::cuda::CUDAGuard guard(rows.logits.device());
  C10_CUDA_CHECK(forward_on_cuda(call_of(rows), out.losses.mutable_data_ptr<float>(),
                                 out.normalizers.mutable_data_ptr<float>(), stream_of(rows)));
}

void reduce(const Rows& rows, const at::Tensor& losses, const Reduced& out) {
  const c10::cuda::CUDAGuard guard(rows.logits.device());
  float* const share = out.share.defined() ? out.share.mutable_data_ptr<float>() : nullptr;
  C10_CUDA_CHECK(reduce_on_cuda(call_of(rows), losses.const_data_ptr<float>(), out.loss.mutable_data_ptr<float>(),
                                share, stream_of(rows)));
}

void backward(const Rows& rows, const at::Tensor& normalizers, const Scale& scale, const at::Tensor& gradient) {
  const c10::cuda::CUDAGuard guard(rows.logits.device());
  const Backward call{.normalizers = normalizers.const_data_ptr<float>(),
                      .gradients = scale.gradients.const_data_ptr<float>(),
                      .gradient_stride = scale.gradients.dim() == 0 ? 0 : scale.gradients.stride(0),
                      .share = scale.share.defined() ? scale.share.const_data_ptr<float>() : nullptr,
                      .out = gradient.mutable_data_ptr()};
  C10_CUDA_CHECK(backward_on_cuda(call_of(rows), call, stream_of(rows)));
}

}  // namespace

DeviceLosses losses_cuda() { return {c10::kCUDA, forward, reduce, backward}; }

}  // namespace accelerate::internal::losses
