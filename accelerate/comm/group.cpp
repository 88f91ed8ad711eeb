#include "accelerate/comm/group.h"

#include <ATen/ATen.h>

#include "accelerate/comm/group_core.h"

namespace accelerate {
namespace internal {

class PendingWork {
 public:
  PendingWork(GroupCore::Started started, at::Tensor tensor, int64_t divisor)
      : started_(std::move(started)), tensor_(std::move(tensor)), divisor_(divisor) {}

  bool is_completed() const { return done_ || started_.work->isCompleted(); }

  void wait() {
    if (done_) return;
    if (!tensor_.defined() || tensor_.is_cpu()) {
      if (started_.future) started_.future->waitAndThrow();
    } else {
      started_.work->wait();  // the current stream waits, the host does not
    }
    done_ = true;
    if (divisor_ != 1) tensor_.div_(divisor_);
  }

 private:
  GroupCore::Started started_;
  at::Tensor tensor_;
  int64_t divisor_;
  bool done_ = false;
};

namespace {

c10d::ReduceOp::RedOpType c10d_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMean:
      return c10d::ReduceOp::SUM;
    case ReduceOp::kMin:
      return c10d::ReduceOp::MIN;
    case ReduceOp::kMax:
      return c10d::ReduceOp::MAX;
    case ReduceOp::kProduct:
      return c10d::ReduceOp::PRODUCT;
  }
  return c10d::ReduceOp::SUM;
}

/// The host's transport where there is one, since a device's barrier holds up the device alone. Not through the group's
/// own barrier(), which keeps its tensor in a static that ranks in threads would share.
c10::intrusive_ptr<c10d::Backend> barrier_backend(c10d::ProcessGroup& group) {
  for (const c10::Device device : group.getDeviceTypes()) {
    if (device.is_cpu()) return group.getBackend(c10::kCPU);
  }
  return group.getDefaultBackend();
}

}  // namespace
}  // namespace internal

void Work::wait() {
  if (pending_) pending_->wait();
}

bool Work::is_completed() const { return !pending_ || pending_->is_completed(); }

int64_t Group::rank() const { return core_ ? core_->rank() : 0; }
int64_t Group::size() const { return core_ ? core_->size() : 1; }

Work Group::all_reduce(at::Tensor tensor, ReduceOp op) const {
  if (!core_) return {};
  c10d::AllreduceOptions options;
  options.reduceOp = internal::c10d_op(op);
  auto started = core_->start("all_reduce", [&] {
    std::vector<at::Tensor> tensors{tensor};
    return core_->process_group()->allreduce(tensors, options);
  });
  const int64_t divisor = op == ReduceOp::kMean ? size() : 1;
  return Work(std::make_shared<internal::PendingWork>(std::move(started), std::move(tensor), divisor));
}

Work Group::broadcast(at::Tensor tensor, int64_t root) const {
  if (!core_) return {};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  auto started = core_->start("broadcast", [&] {
    std::vector<at::Tensor> tensors{tensor};
    return core_->process_group()->broadcast(tensors, options);
  });
  return Work(std::make_shared<internal::PendingWork>(std::move(started), std::move(tensor), 1));
}

at::Tensor Group::all_gather(const at::Tensor& tensor) const {
  if (!core_) return tensor;
  at::Tensor mine = tensor.detach().contiguous();
  if (mine.dim() == 0) mine = mine.unsqueeze(0);
  auto shape = mine.sizes().vec();
  shape[0] *= size();
  at::Tensor all = at::empty(shape, mine.options());
  all_gather_into(all, mine).wait();
  return all;
}

Work Group::all_gather_into(at::Tensor all, const at::Tensor& tensor) const {
  if (!core_) {
    all.copy_(tensor);
    return {};
  }
  auto started = core_->start("all_gather", [&] {
    at::Tensor mine = tensor.detach();
    return core_->process_group()->_allgather_base(all, mine);
  });
  return Work(std::make_shared<internal::PendingWork>(std::move(started), std::move(all), 1));
}

Work Group::all_gather_into(std::vector<at::Tensor> all, std::vector<at::Tensor> tensors) const {
  if (!core_) {
    for (size_t i = 0; i < all.size(); ++i) all[i].copy_(tensors[i]);
    return {};
  }
  if (all.empty()) return {};
  // The transport itself: c10d's operator boxes the lists, which costs more than gathering small tensors.
  auto started = core_->start("all_gather", [&] {
    const auto transport = core_->process_group()->getBackend(all.front().device().type());
    return transport->allgather_into_tensor_coalesced(all, tensors);
  });
  return Work(std::make_shared<internal::PendingWork>(std::move(started), std::move(all.front()), 1));
}

void Group::barrier() const {
  if (!core_) return;
  auto started = core_->start("barrier", [&] { return internal::barrier_backend(*core_->process_group())->barrier(); });
  internal::PendingWork(std::move(started), at::Tensor(), 1).wait();
}

Group Group::split(int64_t color) const { return core_ ? Group(core_->split(color)) : *this; }

}  // namespace accelerate
