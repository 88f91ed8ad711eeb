#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// One call of the cross entropy as raw memory of the device; what `.cu` files see of it.

namespace accelerate::internal::losses {

enum class Number { kFloat, kHalf, kBFloat16 };

struct Call {
  Number number;           ///< of the logits and of their gradient
  int64_t rows;            ///< below 2^31, as are the classes
  int64_t classes;         ///< side by side
  int64_t stride;          ///< elements from one row to the next
  const void* logits;      ///< of any alignment that its number has
  const int64_t* targets;  ///< one a row
  int64_t ignored;         ///< the target of rows that are left out
  float smoothing;         ///< how much of each target is spread over all classes
};

/// Queues the losses of all rows: `normalizers` are two rows of numbers, the largest logits and the logarithms of
/// sum(exp(logit - largest)).
cudaError_t forward_on_cuda(const Call& call, float* losses, float* normalizers, cudaStream_t stream);

/// `share` null: the sum of `losses`. Else their mean over the rows that are not left out, and 1 / their number.
cudaError_t reduce_on_cuda(const Call& call, const float* losses, float* loss, float* share, cudaStream_t stream);

struct Backward {
  const float* normalizers;
  const float* gradients;   ///< of the losses
  int64_t gradient_stride;  ///< elements from one to the next; 0: one for all
  const float* share;       ///< times this; null: 1
  void* out;                ///< dense
};
cudaError_t backward_on_cuda(const Call& call, const Backward& backward, cudaStream_t stream);

}  // namespace accelerate::internal::losses
