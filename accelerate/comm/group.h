#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace accelerate {

/// How a reduction combines the ranks' tensors.
enum class ReduceOp { kSum, kMean, kMax };

/// Ranks that talk to each other; a value. A group of one needs no store, port or thread, and its collectives are
/// identities. Every collective has to be reached by every rank of the group, in the same order.
class Group {
 public:
  int64_t rank() const { return 0; }
  int64_t size() const { return 1; }

  /// In place; the same values on every rank afterwards.
  void all_reduce(at::Tensor& tensor, ReduceOp op) const;
  /// The ranks' tensors, concatenated along dimension 0 in rank order. A group of one returns the tensor itself.
  at::Tensor all_gather(const at::Tensor& tensor) const;
  /// Returns when every rank has come here.
  void barrier() const {}
};

}  // namespace accelerate
