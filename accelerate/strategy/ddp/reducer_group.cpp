#include "accelerate/strategy/ddp/reducer_group.h"

#include <ATen/ATen.h>

#include <limits>
#include <utility>

namespace accelerate::internal {
namespace {

c10::intrusive_ptr<c10::ivalue::Future> done(const std::vector<at::Tensor>& tensors) {
  auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
  future->markCompleted(c10::IValue(tensors));
  return future;
}

}  // namespace

ReducerGroup::ReducerGroup(std::shared_ptr<GroupCore> core)
    : c10d::ProcessGroup(core->rank(), core->size()), core_(std::move(core)) {}

c10::intrusive_ptr<c10d::Work> ReducerGroup::allreduce(std::vector<at::Tensor>& tensors,
                                                       const c10d::AllreduceOptions& options) {
  if (listener_ && hooks_ == 0) listener_(tensors.front());
  if (spoil_) {
    const at::NoGradGuard no_grad;
    for (at::Tensor& tensor : tensors) {
      const bool has_nan = at::isFloatingType(tensor.scalar_type()) || tensor.is_complex();
      if (has_nan) tensor.fill_(std::numeric_limits<double>::quiet_NaN());
    }
  }
  ++reductions_;
  const auto started =
      core_->start("gradient all-reduce", [&] { return core_->process_group()->allreduce(tensors, options); });
  const auto future = started.any_future();
  // What is captured is not under way, and no host can wait for it.
  if (!core_->is_capturing()) {
    under_way_.push_back(future);
  } else if (left_open_.defined() && tensors.size() == 1 && tensors.front().is_alias_of(left_open_)) {
    core_->arrivals().add(left_open_, future);
    return c10d::Work::create_from_future(done(tensors));
  }
  return c10d::Work::create_from_future(future);
}

c10::intrusive_ptr<c10::ivalue::Future> ReducerGroup::sum(at::Tensor tensor) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  return allreduce(tensors, c10d::AllreduceOptions())->getFuture();
}

c10::intrusive_ptr<c10d::Work> ReducerGroup::broadcast(std::vector<at::Tensor>& tensors,
                                                       const c10d::BroadcastOptions& options) {
  const auto started =
      core_->start("broadcast of the model", [&] { return core_->process_group()->broadcast(tensors, options); });
  // Here, since work made from a future does not throw the future's error in its `wait`.
  const auto future = started.any_future();
  future->waitAndThrow();
  return c10d::Work::create_from_future(future);
}

bool ReducerGroup::drain() noexcept {
  bool good = true;
  for (const auto& future : under_way_) {
    future->wait();
    good = good && !future->hasError();
  }
  under_way_.clear();
  return good;
}

}  // namespace accelerate::internal
