#include "accelerate/optim/optimizer.h"

#include <torch/optim/optimizer.h>

#include <string>

#include "accelerate/core/error.h"
#include "accelerate/optim/update.h"

namespace accelerate {

std::vector<torch::optim::OptimizerParamGroup>& Optimizer::param_groups() const {
  return core_->inner().param_groups();
}

namespace internal {
namespace {

std::type_index type_of(const torch::optim::Optimizer& optimizer) { return typeid(optimizer); }

}  // namespace

OptimizerCore::OptimizerCore(std::shared_ptr<torch::optim::Optimizer> inner, std::shared_ptr<SyncSchedule> sync,
                             std::function<void()> check)
    : inner_(std::move(inner)),
      sync_(std::move(sync)),
      check_(std::move(check)),
      update_(make_update(*inner_)),
      type_(type_of(*inner_)) {}

OptimizerCore::~OptimizerCore() = default;

bool OptimizerCore::is_for(const std::shared_ptr<torch::optim::Optimizer>& optimizer) const {
  const bool same_owner = !inner_.owner_before(optimizer) && !optimizer.owner_before(inner_);
  return same_owner && is_for(*optimizer);
}

bool OptimizerCore::is_for(const torch::optim::Optimizer& optimizer) const {
  return inner_.get() == &optimizer && type_ == type_of(optimizer);
}

std::string_view OptimizerCore::update_name() const { return update_->name(); }

StepResult OptimizerCore::step() {
  sync_->require_open("optimizer.step");
  sync_->require_window("optimizer.step");
  if (sync_->in_window() && last_window_ == sync_->window()) {
    throw UsageError({.place = "optimizer.step",
                      .what = "The optimizer has already stepped in this accumulation window",
                      .got = "two steps after one accumulate()",
                      .expected = "one window for each step",
                      .remedy = "Open the window inside the loop body, once for each batch: "
                                "`auto window = accelerator.accumulate(model);`"});
  }
  if (check_ && sync_->sync_gradients()) check_();
  if (sync_->in_window()) last_window_ = sync_->window();
  if (!sync_->sync_gradients()) {
    last_step_ = StepResult(StepResult::Outcome::kAccumulated);
  } else {
    update_->step();
    last_step_ = StepResult(StepResult::Outcome::kApplied);
  }
  return *last_step_;
}

void OptimizerCore::zero_grad() {
  sync_->require_open("optimizer.zero_grad");
  if (!sync_->sync_gradients()) return;
  // Not inner_->zero_grad(): it detaches gradients first, which throws on those that are views of a bucket.
  for (auto& group : inner_->param_groups()) {
    for (at::Tensor& parameter : group.params()) parameter.mutable_grad().reset();
  }
}

}  // namespace internal
}  // namespace accelerate
