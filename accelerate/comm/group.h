#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace accelerate {

/// How a reduction combines the ranks' tensors. The mean is the sum divided by the number of ranks.
enum class ReduceOp { kSum, kMean, kMin, kMax, kProduct };

namespace internal {
class GroupCore;
class PendingWork;
}  // namespace internal

/// A collective on its way. Letting go of it does not stop it. A default one is done.
class [[nodiscard]] Work {
 public:
  Work() = default;
  explicit Work(std::shared_ptr<internal::PendingWork> pending) : pending_(std::move(pending)) {}
  /// Returns when the result is there; for CUDA tensors, when the current stream will see it. Throws CommError naming
  /// the operation, this rank, the rank that is lost, if one is, and the time waited.
  void wait();
  bool is_completed() const;

 private:
  std::shared_ptr<internal::PendingWork> pending_;
};

/// Ranks that talk to each other; a value, copies are the same group. A group of one needs no store, port or thread,
/// and its collectives are identities. Every collective has to be reached by every rank of the group, in the same
/// order, with tensors of the same shape and dtype. All throw CommError when a rank is lost.
class Group {
 public:
  Group() = default;
  explicit Group(std::shared_ptr<internal::GroupCore> core) : core_(std::move(core)) {}

  int64_t rank() const;
  int64_t size() const;

  /// In place and asynchronous: the same values on every rank after `wait()`. Contiguous tensors.
  Work all_reduce(at::Tensor tensor, ReduceOp op = ReduceOp::kSum) const;
  /// In place and asynchronous: the values of rank `root` on every rank.
  Work broadcast(at::Tensor tensor, int64_t root = 0) const;
  /// The ranks' tensors, concatenated along dimension 0 in rank order; 0-d ones give a vector. A group of one returns
  /// the tensor itself.
  at::Tensor all_gather(const at::Tensor& tensor) const;
  /// The same, asynchronous, of a contiguous tensor into one of `size()` times as many elements.
  Work all_gather_into(at::Tensor all, const at::Tensor& tensor) const;
  /// The same for a list of any dtypes, in one exchange.
  Work all_gather_into(std::vector<at::Tensor> all, std::vector<at::Tensor> tensors) const;
  /// Returns when every rank has come here.
  void barrier() const;
  /// The ranks that pass the same `color` form a group, in the order of their ranks. Reached by every rank.
  Group split(int64_t color) const;

  /// Null for a group of one.
  const std::shared_ptr<internal::GroupCore>& core() const { return core_; }

 private:
  std::shared_ptr<internal::GroupCore> core_;
};

}  // namespace accelerate
