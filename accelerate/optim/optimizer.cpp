#include "accelerate/optim/optimizer.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <string>
#include <unordered_set>

#include "accelerate/core/error.h"
#include "accelerate/optim/scaled_gradients.h"
#include "accelerate/optim/update.h"
#include "accelerate/tensor/out_of_memory.h"

namespace accelerate {

std::vector<torch::optim::OptimizerParamGroup>& Optimizer::param_groups() const {
  return used().inner().param_groups();
}

namespace internal {
namespace {

std::type_index type_of(const torch::optim::Optimizer& optimizer) { return typeid(optimizer); }

}  // namespace

OptimizerCore::OptimizerCore(std::shared_ptr<torch::optim::Optimizer> inner, std::shared_ptr<SyncSchedule> sync,
                             OptimizerHooks hooks, SetOptimizerMode set_mode, const std::shared_ptr<GradScaler>& scaler)
    : inner_(std::move(inner)),
      sync_(std::move(sync)),
      hooks_(std::move(hooks)),
      set_mode_(set_mode),
      update_(make_update(*inner_)),
      scaled_(scaler ? ScaledGradients::of(scaler, *inner_) : nullptr),
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

StepResult OptimizerCore::step(const std::function<at::Tensor()>& closure) {
  return explaining_memory(hooks_.memory, MemoryPhase::kOptimizerStep, [&] { return step_once(closure); });
}

StepResult OptimizerCore::step_once(const std::function<at::Tensor()>& closure) {
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
  if (closure && scaled_) {
    throw UsageError({.place = "optimizer.step",
                      .what = "The loss is scaled, and an optimizer that asks for it again would compare scaled ones",
                      .got = "step(closure) with a scaled loss",
                      .expected = "step() after accelerator.backward(loss)",
                      .remedy = "Choose a .mixed_precision that scales no loss, or another optimizer"});
  }
  const bool due = sync_->sync_gradients();
  if (due && !closure && hooks_.before_update) hooks_.before_update();
  if (sync_->in_window()) last_window_ = sync_->window();
  if (!due) {
    last_step_ = StepResult(StepResult::Outcome::kAccumulated);
    return *last_step_;
  }
  at::Tensor loss;
  const bool applied = !scaled_ || scaled_->admits_update();
  if (closure) {
    loss = update_->step_with([&] { return losses(closure); });
  } else if (applied) {
    update_->step();
  }
  if (hooks_.gradients_spent) hooks_.gradients_spent();
  last_step_ = StepResult(applied ? StepResult::Outcome::kApplied : StepResult::Outcome::kSkipped, std::move(loss));
  skipped_ = last_step_->skipped();
  return *last_step_;
}

at::Tensor OptimizerCore::losses(const std::function<at::Tensor()>& closure) const {
  const at::AutoGradMode grad(true);
  const at::Tensor loss = closure();
  if (!loss.defined() || loss.numel() != 1) {
    throw UsageError({.place = "optimizer.step",
                      .what = "The closure returned no loss",
                      .got = loss.defined() ? std::to_string(loss.numel()) + " elements" : "an undefined tensor",
                      .expected = "a tensor of one element, the loss that its backward() ran from",
                      .remedy = "End the closure with `return loss;`"});
  }
  if (hooks_.before_update) hooks_.before_update();
  return hooks_.mean_over_ranks ? hooks_.mean_over_ranks(loss.detach()) : loss.detach();
}

void OptimizerCore::zero_grad(ZeroGradOptions options) {
  sync_->require_open("optimizer.zero_grad");
  if (!sync_->sync_gradients()) return;
  const at::NoGradGuard no_grad;
  // Not inner_->zero_grad(): it detaches gradients first, which throws on those that are views of a bucket.
  for (auto& group : inner_->param_groups()) {
    for (at::Tensor& parameter : group.params()) {
      at::Tensor& gradient = parameter.mutable_grad();
      if (options.set_to_none) {
        gradient.reset();
      } else if (gradient.defined()) {
        if (gradient.requires_grad()) gradient = gradient.detach();
        gradient.zero_();
      }
    }
  }
  if (scaled_) scaled_->dropped();
  if (hooks_.gradients_spent) hooks_.gradients_spent();
}

void OptimizerCore::unscale_gradients() {
  sync_->require_open("unscale_gradients");
  if (scaled_) scaled_->unscale();
}

void OptimizerCore::add_param_group(const torch::optim::OptimizerParamGroup& group) {
  sync_->require_open("optimizer.add_param_group");
  std::unordered_set<const void*> known;
  for (const auto& present : inner_->param_groups()) {
    for (const at::Tensor& parameter : present.params()) known.insert(parameter.unsafeGetTensorImpl());
  }
  for (size_t i = 0; i < group.params().size(); ++i) {
    if (!known.contains(group.params()[i].unsafeGetTensorImpl())) continue;
    throw UsageError({.place = "optimizer.add_param_group",
                      .what = "The optimizer has a parameter already",
                      .got = "parameter " + std::to_string(i) + " of the new group, which another group lists",
                      .expected = "parameters of no group yet",
                      .remedy = "Leave it out; to change its options, set them in its own group of param_groups()"});
  }
  if (hooks_.admit) hooks_.admit(group);
  inner_->add_param_group(group);
  list_each_once(*inner_);
}

void OptimizerCore::set_mode(OptimizerMode mode) {
  sync_->require_open(mode == OptimizerMode::kTrain ? "optimizer.train" : "optimizer.eval");
  if (set_mode_ != nullptr) set_mode_(*inner_, mode);
}

void list_each_once(torch::optim::Optimizer& optimizer) {
  std::unordered_set<const void*> seen;
  for (auto& group : optimizer.param_groups()) {
    std::erase_if(group.params(),
                  [&](const at::Tensor& parameter) { return !seen.insert(parameter.unsafeGetTensorImpl()).second; });
  }
}

}  // namespace internal
}  // namespace accelerate
