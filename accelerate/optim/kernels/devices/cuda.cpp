// Updates on CUDA, queued on the device's current stream.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "accelerate/optim/kernels/cuda.h"
#include "accelerate/optim/kernels/device.h"

namespace accelerate::internal::kernels {
namespace {

template <class Rule>
void update(const Rule& rule, const Call& call, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  Call queued = call;
  at::Tensor progress;
  if (call.updates != nullptr) {
    progress = at::empty({2}, at::TensorOptions(at::kDouble).device(device));
    queued.progress = progress.mutable_data_ptr<double>();
  }
  C10_CUDA_CHECK(update_on_cuda(rule, queued, c10::cuda::getCurrentCUDAStream(device.index())));
}

void scale(const ScaleCall& call, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(scale_on_cuda(call, c10::cuda::getCurrentCUDAStream(device.index())));
}

void norm(const NormCall& call, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  Blocks blocks;
  C10_CUDA_CHECK(blocks_on_cuda(call.sizes, call.tensors, blocks));
  const at::Tensor partial = at::empty({blocks.count}, at::TensorOptions(at::kDouble).device(device));
  C10_CUDA_CHECK(
      norm_on_cuda(call, blocks, partial.mutable_data_ptr<double>(), c10::cuda::getCurrentCUDAStream(device.index())));
}

void count_ema(const EmaDecay& decay, const EmaClock& clock, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(count_ema_on_cuda(decay, clock, c10::cuda::getCurrentCUDAStream(device.index())));
}

void ema(const EmaCall& call, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(ema_on_cuda(call, c10::cuda::getCurrentCUDAStream(device.index())));
}

void publish(int64_t* number, int64_t* outcomes, const float* skip, float* kept, c10::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  void* mapped = nullptr;
  C10_CUDA_CHECK(cudaHostGetDevicePointer(&mapped, outcomes, 0));
  C10_CUDA_CHECK(publish_on_cuda(number, static_cast<int64_t*>(mapped), skip, kept,
                                 c10::cuda::getCurrentCUDAStream(device.index())));
}

bool idle(c10::Device device) {
  const auto stream = c10::cuda::getCurrentCUDAStream(device.index());
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  TORCH_CHECK(status == cudaStreamCaptureStatusNone,
              "accelerate: the outcome of an update was asked for while that is captured");
  return stream.query();
}

}  // namespace

DeviceKernels kernels_cuda() {
  return {c10::kCUDA, update, update, update, update, update, update, scale, norm, count_ema, ema, publish, idle};
}

}  // namespace accelerate::internal::kernels
