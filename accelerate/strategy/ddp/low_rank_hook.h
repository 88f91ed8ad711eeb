#pragma once

#include <memory>

#include "accelerate/strategy/ddp/comm_hook.h"

namespace accelerate::internal {

/// What a low-rank hook takes for matrices.
enum class LowRankCut {
  kParameters,  ///< the gradient of each parameter; what is not worth compressing travels as it is
  kBucket,      ///< a whole bucket, filled up with zeros to a square
};

/// PowerSGD: a matrix M of gradients travels as P = M Q, whose sum over the ranks is orthonormalised, and as Q = M^T P;
/// P Q^T stands for the mean. Both all-reduces of a bucket start inside calls of `run`: P in its own, Q in that of the
/// next bucket, by which time P has arrived, or in its own if it is the last. Throws ConfigError for options out of
/// range.
std::unique_ptr<CommHook> low_rank_hook(LowRankCut cut, const CommStateOption& state);

}  // namespace accelerate::internal
