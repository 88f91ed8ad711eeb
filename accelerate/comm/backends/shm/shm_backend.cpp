#include "accelerate/comm/backends/shm/shm_backend.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <utility>

#include "accelerate/comm/backends/shm/arguments.h"
#include "accelerate/comm/backends/shm/staged.h"

namespace accelerate::internal::shm {
namespace {

using c10d::OpType;

// What a call returns: everything has happened.
class DoneWork : public c10d::Work {
 public:
  DoneWork(int rank, OpType operation, std::vector<at::Tensor> outputs)
      : Work(rank, operation), outputs_(std::move(outputs)) {
    finish();
  }
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    if (!future_) {
      future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
      future_->markCompleted(c10::IValue(outputs_));
    }
    return future_;
  }

 private:
  std::vector<at::Tensor> outputs_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

ShmBackend::WorkPtr done(int rank, OpType operation, std::vector<at::Tensor> outputs) {
  return c10::make_intrusive<DoneWork>(rank, operation, std::move(outputs));
}

// Equal parts, one for each rank.
std::vector<std::byte*> cut(const Staged& whole, int size) {
  std::vector<std::byte*> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(whole.data() + whole.bytes() / size * rank);
  return parts;
}

template <class Byte>
std::vector<std::span<Byte>> spans_of(std::byte* data, const std::vector<size_t>& bytes) {
  std::vector<std::span<Byte>> spans;
  for (const size_t count : bytes) {
    spans.emplace_back(data, count);
    data += count;
  }
  return spans;
}

}  // namespace

ShmBackend::ShmBackend(Segment segment, Peers peers, int rank, std::string group, std::chrono::milliseconds timeout,
                       std::function<std::optional<std::string>()> lost)
    : Backend(rank, segment.ranks()),
      segment_(std::move(segment)),
      fence_(segment_, rank, std::move(peers), std::move(group), std::move(lost)),
      exchange_(segment_, fence_, rank),
      timeout_(timeout) {}

ShmBackend::~ShmBackend() { fence_.close(); }

c10::intrusive_ptr<c10d::Backend::Options> ShmBackend::getBackendOptions() {
  return c10::make_intrusive<Options>("shm", timeout_);
}

void ShmBackend::setTimeout(std::chrono::milliseconds timeout) {
  const std::lock_guard lock(mutex_);
  timeout_ = timeout;
}

uint64_t ShmBackend::getSequenceNumberForGroup() {
  const std::lock_guard lock(mutex_);
  return fence_.calls();
}

void ShmBackend::abort() { fence_.abort(); }

void ShmBackend::shutdown() {
  const std::lock_guard lock(mutex_);
  fence_.close();
}

void ShmBackend::begin(const Call& call, std::chrono::milliseconds timeout) {
  fence_.begin(call, timeout.count() > 0 ? timeout : timeout_);
}

ShmBackend::WorkPtr ShmBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  constexpr OpType kOperation = OpType::ALLREDUCE;
  const at::Tensor& tensor = one_of(tensors, kOperation);
  const Staged staged = stage_result(tensor, name_of(kOperation));
  const Reduction reduction = reduction_of(tensor.scalar_type(), options.reduceOp, kOperation);
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, tensor, options.reduceOp.op_), options.timeout);
  exchange_.all_reduce(staged.data(), tensor.numel(), reduction);
  staged.finish();
  return done(rank_, kOperation, tensors);
}

ShmBackend::WorkPtr ShmBackend::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  constexpr OpType kOperation = OpType::ALLREDUCE_COALESCED;
  const at::NoGradGuard no_grad;
  std::vector<Staged> staged;
  for (const at::Tensor& tensor : tensors) {
    staged.push_back(stage_result(tensor, name_of(kOperation)));
    reduction_of(tensor.scalar_type(), options.reduceOp, kOperation);
  }
  const std::lock_guard lock(mutex_);
  // Neighbours of one dtype go together as long as they fit into a buffer: many small tensors cost one fence.
  for (size_t first = 0, end = 0; first < tensors.size(); first = end) {
    const at::ScalarType dtype = tensors[first].scalar_type();
    size_t bytes = 0;
    for (end = first; end < tensors.size() && tensors[end].scalar_type() == dtype; ++end) {
      if (end > first && bytes + staged[end].bytes() > segment_.buffer_bytes()) break;
      bytes += staged[end].bytes();
    }
    const Reduction reduction = reduction_of(dtype, options.reduceOp, kOperation);
    if (end - first == 1) {
      begin(call_of(kOperation, tensors[first], options.reduceOp.op_), options.timeout);
      exchange_.all_reduce(staged[first].data(), tensors[first].numel(), reduction);
    } else {
      std::vector<at::Tensor> parts;
      for (size_t i = first; i < end; ++i) parts.push_back(tensors[i].reshape({-1}));
      const at::Tensor packed = at::cat(parts);
      begin(call_of(kOperation, packed, options.reduceOp.op_), options.timeout);
      exchange_.all_reduce(static_cast<std::byte*>(packed.data_ptr()), packed.numel(), reduction);
      const auto* from = static_cast<const std::byte*>(packed.data_ptr());
      for (size_t i = first; i < end; ++i) {
        if (staged[i].bytes() != 0) std::memcpy(staged[i].data(), from, staged[i].bytes());
        from += staged[i].bytes();
      }
    }
    for (size_t i = first; i < end; ++i) staged[i].finish();
  }
  return done(rank_, kOperation, tensors);
}

ShmBackend::WorkPtr ShmBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  constexpr OpType kOperation = OpType::REDUCE;
  const at::Tensor& tensor = one_of(tensors, kOperation);
  const int32_t root = root_of(options.rootRank, size_, kOperation);
  const Staged staged = stage_result(tensor, name_of(kOperation));
  const Reduction reduction = reduction_of(tensor.scalar_type(), options.reduceOp, kOperation);
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, tensor, options.reduceOp.op_, root), options.timeout);
  exchange_.reduce(staged.data(), tensor.numel(), reduction, root);
  if (rank_ == root) staged.finish();
  return done(rank_, kOperation, tensors);
}

ShmBackend::WorkPtr ShmBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  constexpr OpType kOperation = OpType::BROADCAST;
  const at::Tensor& tensor = one_of(tensors, kOperation);
  const int32_t root = root_of(options.rootRank, size_, kOperation);
  const Staged staged = rank_ == root ? Staged(tensor, name_of(kOperation)) : stage_result(tensor, name_of(kOperation));
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, tensor, c10d::ReduceOp::UNUSED, root), options.timeout);
  exchange_.broadcast(staged.data(), staged.bytes(), root);
  if (rank_ != root) staged.finish();
  return done(rank_, kOperation, tensors);
}

void ShmBackend::run_all_gather(const Tensors& outputs, const at::Tensor& input, OpType operation,
                                std::chrono::milliseconds timeout) {
  Staged from(input, name_of(operation));
  check_parts(outputs, input, size_, operation);
  std::vector<Staged> staged;
  std::vector<std::byte*> outs;
  for (const at::Tensor& output : outputs) {
    from.detach_from(output);
    staged.push_back(stage_result(output, name_of(operation)));
    outs.push_back(staged.back().data());
  }
  begin(call_of(operation, input), timeout);
  exchange_.all_gather(from.data(), outs, from.bytes());
  for (const Staged& output : staged) output.finish();
}

ShmBackend::WorkPtr ShmBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) {
  constexpr OpType kOperation = OpType::ALLGATHER;
  const at::Tensor& input = one_of(inputs, kOperation);
  check_count(outputs.size(), 1, kOperation);
  const std::lock_guard lock(mutex_);
  run_all_gather(outputs.front(), input, kOperation, options.timeout);
  return done(rank_, kOperation, outputs.front());
}

ShmBackend::WorkPtr ShmBackend::allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                                    const c10d::AllgatherOptions& options) {
  constexpr OpType kOperation = OpType::ALLGATHER_COALESCED;
  for (const Tensors& of_rank : outputs) {  // outputs[rank][i] is rank's inputs[i]
    check_count(of_rank.size(), inputs.size(), kOperation);
  }
  const std::lock_guard lock(mutex_);
  Tensors all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensors of_tensor;
    for (const Tensors& of_rank : outputs) of_tensor.push_back(of_rank[i]);
    run_all_gather(of_tensor, inputs[i], kOperation, options.timeout);
    all.insert(all.end(), of_tensor.begin(), of_tensor.end());
  }
  return done(rank_, kOperation, std::move(all));
}

void ShmBackend::run_all_gather_base(const at::Tensor& output, const at::Tensor& input, OpType operation,
                                     std::chrono::milliseconds timeout) {
  check_multiple(output, input, size_, name_of(operation));
  Staged from(input, name_of(operation));
  from.detach_from(output);
  const Staged to = stage_result(output, name_of(operation));
  begin(call_of(operation, input), timeout);
  exchange_.all_gather(from.data(), cut(to, size_), from.bytes());
  to.finish();
}

ShmBackend::WorkPtr ShmBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                const c10d::AllgatherOptions& options) {
  constexpr OpType kOperation = OpType::_ALLGATHER_BASE;
  const std::lock_guard lock(mutex_);
  run_all_gather_base(output, input, kOperation, options.timeout);
  return done(rank_, kOperation, {output});
}

ShmBackend::WorkPtr ShmBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                const c10d::AllgatherOptions& options) {
  constexpr OpType kOperation = OpType::ALLGATHER_COALESCED;
  check_count(outputs.size(), inputs.size(), kOperation);
  const std::string name = name_of(kOperation);
  std::vector<Staged> from, to;
  std::vector<std::span<const std::byte>> parts;
  std::vector<std::byte*> outs;
  from.reserve(inputs.size());
  to.reserve(inputs.size());
  Call call{.operation = kOperation, .dtype = at::kByte};
  std::vector<const c10::StorageImpl*> written;
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_multiple(outputs[i], inputs[i], size_, name);
    to.push_back(stage_result(outputs[i], name));
    written.push_back(outputs[i].storage().unsafeGetStorageImpl());
  }
  std::ranges::sort(written);
  for (size_t i = 0; i < inputs.size(); ++i) {
    from.emplace_back(inputs[i], name);
    from[i].detach_from(written);
    parts.emplace_back(from[i].data(), from[i].bytes());
    outs.push_back(to[i].data());
    call.elements += from[i].bytes();
  }
  const std::lock_guard lock(mutex_);
  begin(call, options.timeout);
  exchange_.all_gather_list(parts, outs);
  for (const Staged& output : to) output.finish();
  return done(rank_, kOperation, outputs);
}

ShmBackend::WorkPtr ShmBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                       const c10d::GatherOptions& options) {
  constexpr OpType kOperation = OpType::GATHER;
  const at::Tensor& input = one_of(inputs, kOperation);
  const int32_t root = root_of(options.rootRank, size_, kOperation);
  Staged from(input, name_of(kOperation));
  std::vector<Staged> staged;
  std::vector<std::byte*> outs;
  if (rank_ == root) {
    check_count(outputs.size(), 1, kOperation);
    check_parts(outputs.front(), input, size_, kOperation);
    for (const at::Tensor& output : outputs.front()) {
      from.detach_from(output);
      staged.push_back(stage_result(output, name_of(kOperation)));
      outs.push_back(staged.back().data());
    }
  }
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, input, c10d::ReduceOp::UNUSED, root), options.timeout);
  exchange_.all_gather(from.data(), outs, from.bytes());
  for (const Staged& output : staged) output.finish();
  return done(rank_, kOperation, rank_ == root ? outputs.front() : Tensors{});
}

ShmBackend::WorkPtr ShmBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                        const c10d::ScatterOptions& options) {
  constexpr OpType kOperation = OpType::SCATTER;
  const at::Tensor& output = one_of(outputs, kOperation);
  const int32_t root = root_of(options.rootRank, size_, kOperation);
  const Staged to = stage_result(output, name_of(kOperation));
  std::vector<Staged> staged;
  std::vector<const std::byte*> parts;
  if (rank_ == root) {
    check_count(inputs.size(), 1, kOperation);
    check_parts(inputs.front(), output, size_, kOperation);
    for (const at::Tensor& input : inputs.front()) {
      staged.emplace_back(input, name_of(kOperation));
      staged.back().detach_from(output);
      parts.push_back(staged.back().data());
    }
  }
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, output, c10d::ReduceOp::UNUSED, root), options.timeout);
  exchange_.scatter(parts, to.data(), to.bytes(), root);
  to.finish();
  return done(rank_, kOperation, outputs);
}

ShmBackend::WorkPtr ShmBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                               const c10d::ReduceScatterOptions& options) {
  constexpr OpType kOperation = OpType::REDUCE_SCATTER;
  const at::Tensor& output = one_of(outputs, kOperation);
  check_count(inputs.size(), 1, kOperation);
  const Staged to = stage_result(output, name_of(kOperation));
  check_parts(inputs.front(), output, size_, kOperation);
  const Reduction reduction = reduction_of(output.scalar_type(), options.reduceOp, kOperation);
  std::vector<Staged> staged;
  std::vector<const std::byte*> parts;
  for (const at::Tensor& input : inputs.front()) {
    staged.emplace_back(input, name_of(kOperation));
    staged.back().detach_from(output);
    parts.push_back(staged.back().data());
  }
  const std::lock_guard lock(mutex_);
  begin(call_of(kOperation, output, options.reduceOp.op_), options.timeout);
  exchange_.reduce_scatter(parts, to.data(), output.numel(), reduction);
  to.finish();
  return done(rank_, kOperation, outputs);
}

void ShmBackend::run_reduce_scatter_base(const at::Tensor& output, const at::Tensor& input,
                                         const c10d::ReduceOp& reduce_op, OpType operation,
                                         std::chrono::milliseconds timeout) {
  check_multiple(input, output, size_, name_of(operation));
  const Reduction reduction = reduction_of(output.scalar_type(), reduce_op, operation);
  Staged from(input, name_of(operation));
  from.detach_from(output);
  const Staged to = stage_result(output, name_of(operation));
  const std::vector<std::byte*> parts = cut(from, size_);
  begin(call_of(operation, output, reduce_op.op_), timeout);
  exchange_.reduce_scatter({parts.data(), parts.size()}, to.data(), output.numel(), reduction);
  to.finish();
}

ShmBackend::WorkPtr ShmBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                     const c10d::ReduceScatterOptions& options) {
  constexpr OpType kOperation = OpType::_REDUCE_SCATTER_BASE;
  const std::lock_guard lock(mutex_);
  run_reduce_scatter_base(output, input, options.reduceOp, kOperation, options.timeout);
  return done(rank_, kOperation, {output});
}

ShmBackend::WorkPtr ShmBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                const c10d::ReduceScatterOptions& options) {
  constexpr OpType kOperation = OpType::_REDUCE_SCATTER_BASE;
  check_count(outputs.size(), inputs.size(), kOperation);
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < inputs.size(); ++i) {
    run_reduce_scatter_base(outputs[i], inputs[i], options.reduceOp, kOperation, options.timeout);
  }
  return done(rank_, kOperation, outputs);
}

ShmBackend::WorkPtr ShmBackend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  constexpr OpType kOperation = OpType::ALLTOALL;
  check_count(inputs.size(), size_, kOperation);
  check_count(outputs.size(), size_, kOperation);
  std::vector<Staged> staged_in, staged_out;
  std::vector<std::span<const std::byte>> send;
  std::vector<std::span<std::byte>> receive;
  for (int rank = 0; rank < size_; ++rank) {
    staged_in.emplace_back(inputs[rank], name_of(kOperation));
    for (const at::Tensor& output : outputs) staged_in.back().detach_from(output);
    staged_out.push_back(stage_result(outputs[rank], name_of(kOperation)));
    send.emplace_back(staged_in.back().data(), staged_in.back().bytes());
    receive.emplace_back(staged_out.back().data(), staged_out.back().bytes());
  }
  const std::lock_guard lock(mutex_);
  begin({.operation = kOperation, .dtype = inputs.front().scalar_type(), .elements = Call::kVaries}, options.timeout);
  exchange_.all_to_all(send, receive);
  for (const Staged& output : staged_out) output.finish();
  return done(rank_, kOperation, outputs);
}

ShmBackend::WorkPtr ShmBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                              std::vector<int64_t>& output_splits, std::vector<int64_t>& input_splits,
                                              const c10d::AllToAllOptions& options) {
  constexpr OpType kOperation = OpType::ALLTOALL_BASE;
  Staged from(input, name_of(kOperation));
  from.detach_from(output);
  const Staged to = stage_result(output, name_of(kOperation));
  const auto send = spans_of<const std::byte>(from.data(), split_bytes(input, input_splits, size_, kOperation));
  const auto receive = spans_of<std::byte>(to.data(), split_bytes(output, output_splits, size_, kOperation));
  const std::lock_guard lock(mutex_);
  begin({.operation = kOperation, .dtype = input.scalar_type(), .elements = Call::kVaries}, options.timeout);
  exchange_.all_to_all(send, receive);
  to.finish();
  return done(rank_, kOperation, {output});
}

ShmBackend::WorkPtr ShmBackend::barrier(const c10d::BarrierOptions& options) {
  const std::lock_guard lock(mutex_);
  begin({.operation = OpType::BARRIER}, options.timeout);
  exchange_.barrier();
  return done(rank_, OpType::BARRIER, {});
}

}  // namespace accelerate::internal::shm
