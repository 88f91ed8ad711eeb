#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "accelerate/step/capture_device.h"

namespace accelerate::internal {

/// Queues the copies on `stream`, many small ones as one launch: each call of CUDA's costs the host microseconds.
cudaError_t copy_on_cuda(std::span<const MemoryCopy> copies, cudaStream_t stream);

}  // namespace accelerate::internal
