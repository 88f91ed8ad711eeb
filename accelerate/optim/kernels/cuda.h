#pragma once

#include <cuda_runtime_api.h>

#include "accelerate/optim/kernels/call.h"
#include "accelerate/optim/kernels/element.h"

namespace accelerate::internal::kernels {

/// Queues one call on `stream`: one pass over the arrays, in as many launches as their pointers need.
template <class Rule>
cudaError_t update_on_cuda(const Rule& rule, const Call& call, cudaStream_t stream);

/// How the elements of one call are shared out.
struct Blocks {
  int64_t chunk = 0;  ///< elements of a block
  int64_t count = 0;
};
cudaError_t blocks_on_cuda(const int64_t* sizes, int64_t tensors, Blocks& blocks);

/// One pass over the gradients; `partial` has room for a number a block. The sum is taken in an order of its own, so
/// that the same gradients have the same norm.
cudaError_t norm_on_cuda(const NormCall& call, const Blocks& blocks, double* partial, cudaStream_t stream);

cudaError_t scale_on_cuda(const ScaleCall& call, cudaStream_t stream);

/// Counts `number` on; the host reads `outcomes` meanwhile: the number last, when the outcome beside it is there.
/// `kept` may be null.
cudaError_t publish_on_cuda(int64_t* number, int64_t* outcomes, const float* skip, float* kept, cudaStream_t stream);

cudaError_t count_ema_on_cuda(const EmaDecay& decay, const EmaClock& clock, cudaStream_t stream);
cudaError_t ema_on_cuda(const EmaCall& call, cudaStream_t stream);

}  // namespace accelerate::internal::kernels
