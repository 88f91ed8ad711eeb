#include "accelerate/strategy/ddp/reducer_group.h"

#include <ATen/ATen.h>

#include <limits>
#include <utility>

namespace accelerate::internal {

ReducerGroup::ReducerGroup(std::shared_ptr<GroupCore> core)
    : c10d::ProcessGroup(core->rank(), core->size()), core_(std::move(core)) {}

c10::intrusive_ptr<c10d::Work> ReducerGroup::allreduce(std::vector<at::Tensor>& tensors,
                                                       const c10d::AllreduceOptions& options) {
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
  under_way_.push_back(c10d::Work::create_from_future(started.future));
  return under_way_.back();
}

c10::intrusive_ptr<c10d::Work> ReducerGroup::broadcast(std::vector<at::Tensor>& tensors,
                                                       const c10d::BroadcastOptions& options) {
  const auto started =
      core_->start("broadcast of the model", [&] { return core_->process_group()->broadcast(tensors, options); });
  return c10d::Work::create_from_future(started.future);
}

bool ReducerGroup::drain() noexcept {
  bool good = true;
  for (const auto& work : under_way_) {
    try {
      work->wait();
    } catch (...) {
      good = false;
    }
  }
  under_way_.clear();
  return good;
}

}  // namespace accelerate::internal
