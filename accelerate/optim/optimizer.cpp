#include "accelerate/optim/optimizer.h"

#include <ATen/ATen.h>
#include <torch/optim/optimizer.h>

#include <exception>
#include <string>
#include <unordered_set>

#include "accelerate/core/error.h"
#include "accelerate/optim/ema_core.h"
#include "accelerate/optim/scaled_gradients.h"
#include "accelerate/optim/update.h"
#include "accelerate/optim/update_outcomes.h"
#include "accelerate/tensor/out_of_memory.h"

namespace accelerate {

std::vector<torch::optim::OptimizerParamGroup>& Optimizer::param_groups() const {
  return looked_at().inner().param_groups();
}

namespace internal {
namespace {

std::type_index type_of(const torch::optim::Optimizer& optimizer) { return typeid(optimizer); }

/// Averages that follow one step, which ends with `finish()` or with an error.
class FollowedStep {
 public:
  FollowedStep(std::shared_ptr<EmaCore> averages, Update& update) : averages_(std::move(averages)), update_(update) {
    averages_->begin_step();
    update_.be_followed_by(averages_.get());
  }
  FollowedStep(const FollowedStep&) = delete;
  FollowedStep& operator=(const FollowedStep&) = delete;
  ~FollowedStep() {
    update_.be_followed_by(nullptr);
    if (!finished_) averages_->abandon_step();
  }
  void finish(const StepResult& result) {
    averages_->end_step(result);
    finished_ = true;
  }

 private:
  std::shared_ptr<EmaCore> averages_;
  Update& update_;
  bool finished_ = false;
};

}  // namespace

OptimizerCore::OptimizerCore(std::shared_ptr<torch::optim::Optimizer> inner, std::shared_ptr<SyncSchedule> sync,
                             OptimizerHooks hooks, SetOptimizerMode set_mode, const std::shared_ptr<GradScaler>& scaler)
    : inner_(std::move(inner)),
      sync_(std::move(sync)),
      hooks_(std::move(hooks)),
      set_mode_(set_mode),
      update_options_(std::make_unique<const UpdateOptions>()),
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
  const std::shared_ptr<EmaCore> averages = averages_.lock();
  if (averages) averages->require_weights("optimizer.step");
  const bool due = sync_->sync_gradients();
  std::optional<FollowedStep> followed;
  if (averages && due) followed.emplace(averages, *update_);
  if (due && !closure && hooks_.before_update) hooks_.before_update();
  if (sync_->in_window()) last_window_ = sync_->window();
  if (!due) {
    last_step_ = StepResult(StepResult::Outcome::kAccumulated);
    if (hooks_.stepped) hooks_.stepped(*this);
    return *last_step_;
  }
  resolve();
  prepare_step();
  last_step_ = last_due_ = update(closure);
  if (hooks_.gradients_spent) hooks_.gradients_spent();
  if (followed) followed->finish(*last_step_);
  if (hooks_.stepped) hooks_.stepped(*this);
  return *last_step_;
}

StepResult OptimizerCore::update(const std::function<at::Tensor()>& closure) {
  using Outcome = StepResult::Outcome;
  if (closure) return StepResult(Outcome::kApplied, update_->step_with([&] { return losses(closure); }));
  if (!scaled_ || !scaled_->has_scale()) {
    update_->step();
    return StepResult(Outcome::kApplied);
  }
  if (!update_->takes_verdict(scaled_->device())) {
    if (!scaled_->admits_update()) return StepResult(Outcome::kSkipped);
    update_->step();
    return StepResult(Outcome::kApplied);
  }
  const Verdict verdict = scaled_->verdict();
  update_->step_if(verdict);
  if (!verdict.skip.defined()) return StepResult(Outcome::kApplied);
  scaled_->updated(verdict);
  if (!outcomes_) outcomes_ = std::make_unique<UpdateOutcomes>(scaled_->device());
  StepResult result(outcomes_->publish(verdict.skip));
  unresolved_ = Unresolved{.result = result};
  if (result.known()) resolve();
  return result;
}

void OptimizerCore::prepare_step() {
  if (update_->rates_are_uploaded()) return;
  hooks_.apart ? hooks_.apart([this] { update_->upload_rates(); }) : update_->upload_rates();
}

bool OptimizerCore::rates_are_uploaded() const {
  return (!unresolved_ || unresolved_->followers.empty()) && update_->rates_are_uploaded();
}

void OptimizerCore::resolve() {
  if (!unresolved_) return;
  const bool skipped = unresolved_->result.skipped();
  const std::vector<std::function<void(bool)>> followers = std::move(unresolved_->followers);
  unresolved_.reset();
  if (skipped) update_->take_back();
  std::exception_ptr first;
  for (const auto& follow : followers) {
    try {
      follow(skipped);
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

void OptimizerCore::when_resolved(std::function<void(bool skipped)> follow) {
  if (unresolved_ && unresolved_->result.known()) resolve();
  if (unresolved_) {
    unresolved_->followers.push_back(std::move(follow));
  } else {
    follow(last_step_ && last_step_->skipped());
  }
}

void OptimizerCore::record(const StepResult& result) {
  resolve();
  last_step_ = result;
  if (!result.known()) unresolved_ = Unresolved{.result = result};
}

void OptimizerCore::update_with(const UpdateOptions& options) {
  resolve();
  update_ = make_update(*inner_, options);
  update_options_ = std::make_unique<const UpdateOptions>(options);
}

UpdateOptions OptimizerCore::update_options() const { return *update_options_; }

void OptimizerCore::lead(const std::shared_ptr<EmaCore>& averages) {
  const std::shared_ptr<EmaCore> others = averages_.lock();
  if (others != nullptr && others != averages) {
    throw UsageError({.place = "Ema::follow",
                      .what = "Another Ema follows this optimizer by itself",
                      .got = "a second one",
                      .expected = "one that its kernels write",
                      .remedy = "Call update(optimizer.step()) of this one"});
  }
  averages_ = averages;
}

const at::Tensor* OptimizerCore::master_of(const at::Tensor& parameter) const { return update_->master_of(parameter); }

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

std::optional<at::Tensor> OptimizerCore::clip_scaled(const std::vector<at::Tensor>& parameters, double max_norm) {
  if (!scaled_ || !update_->takes_verdict(scaled_->device())) return std::nullopt;
  return scaled_->clip(parameters, max_norm);
}

void OptimizerCore::add_param_group(const torch::optim::OptimizerParamGroup& group) {
  sync_->require_open("optimizer.add_param_group");
  resolve();
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
  resolve();
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
