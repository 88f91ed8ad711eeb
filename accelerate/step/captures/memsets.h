#pragma once

#include <cuda_runtime_api.h>

namespace accelerate::internal {

/// Puts kernels in the place of the graph's small memsets. A graph takes about 5 us for a memset, the pauses before and
/// after it included, and 2 us for a small kernel (H200); cuBLAS has one before most products.
cudaError_t memsets_as_kernels(cudaGraph_t graph);

}  // namespace accelerate::internal
