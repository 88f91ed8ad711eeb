#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "accelerate/comm/backends/shm/exchange.h"

namespace accelerate::internal::shm {

/// Collectives between ranks of one host, through shared memory.
///
/// A collective is over when its call returns: it runs in the calling thread (inside autograd's hooks, for a reducer),
/// and the Work is complete from the start. Ranks call the same collectives in the same order; calls of several threads
/// of one rank are taken one by one.
///
/// Tensors are dense and on the CPU; any strides. Movement takes every dtype, reductions what `find_reduce_kernel`
/// knows. Results are the same bits on every rank and from run to run.
///
/// Errors leave the call itself. UsageError: an argument that no rank could have served; the group stays usable.
/// CommError: the ranks called different things, or one ended, left, was reported lost, did not come in time; the group
/// stays broken with the same error.
class ShmBackend : public c10d::Backend {
 public:
  ShmBackend(Segment segment, Peers peers, int rank, std::string group, std::chrono::milliseconds timeout,
             std::function<std::optional<std::string>()> lost);
  ~ShmBackend() override;

  const std::string getBackendName() const override { return "shm"; }
  c10::intrusive_ptr<Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override;
  void abort() override;
  void shutdown() override;

  using Tensors = std::vector<at::Tensor>;
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                        std::vector<int64_t>& input_splits, const c10d::AllToAllOptions& options) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;

 private:
  void begin(const Call& call, std::chrono::milliseconds timeout);
  void run_all_gather(const Tensors& outputs, const at::Tensor& input, c10d::OpType operation,
                      std::chrono::milliseconds timeout);
  void run_all_gather_base(const at::Tensor& output, const at::Tensor& input, c10d::OpType operation,
                           std::chrono::milliseconds timeout);
  void run_reduce_scatter_base(const at::Tensor& output, const at::Tensor& input, const c10d::ReduceOp& reduction,
                               c10d::OpType operation, std::chrono::milliseconds timeout);

  Segment segment_;
  Fence fence_;
  Exchange exchange_;
  std::chrono::milliseconds timeout_;
  std::mutex mutex_;  // one collective at a time; nobody waits for it unless two threads use one group
};

}  // namespace accelerate::internal::shm
