#include <c10/core/Stream.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "accelerate/tensor/copiers/copies.h"

namespace accelerate::internal {

MemoryCopier copier_cuda() {
  return {.type = c10::kCUDA, .copy = [](std::span<const MemoryCopy> copies, c10::Stream stream) {
            const c10::cuda::CUDAGuard guard(stream.device());
            C10_CUDA_CHECK(copy_on_cuda(copies, c10::cuda::CUDAStream(stream)));
          }};
}

}  // namespace accelerate::internal
