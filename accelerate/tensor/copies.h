#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "accelerate/tensor/memory_copy.h"

namespace accelerate::internal {

/// Queues the copies on `stream`, many small ones as one launch: each call of CUDA's costs the host microseconds.
/// `from` may be pinned memory of the host, which the kernel reads where it is. No two of them write the same bytes.
cudaError_t copy_on_cuda(std::span<const MemoryCopy> copies, cudaStream_t stream);

}  // namespace accelerate::internal
