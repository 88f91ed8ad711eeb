#include "accelerate/runtime.h"

#include <ATen/DeviceAccelerator.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/optimizer.h>

#include <algorithm>
#include <exception>
#include <sstream>
#include <unordered_set>
#include <utility>

#include "accelerate/comm/connect.h"
#include "accelerate/comm/group_core.h"
#include "accelerate/core/error.h"
#include "accelerate/core/heap.h"
#include "accelerate/core/kernel.h"
#include "accelerate/plan_agreement.h"
#include "accelerate/runtime_weights.h"
#include "accelerate/tensor/out_of_memory.h"

namespace accelerate::internal {
namespace {

void check_loss(const at::Tensor& loss) {
  if (loss.defined() && loss.requires_grad() && loss.numel() == 1) return;
  std::ostringstream got;
  if (!loss.defined()) {
    got << "an undefined tensor";
  } else if (loss.numel() != 1) {
    got << "a tensor of shape " << loss.sizes();
  } else {
    got << "a tensor without a graph";
  }
  throw UsageError({.place = "backward",
                    .what = "The loss cannot be differentiated",
                    .got = got.str(),
                    .expected = "one number computed from a model's parameters",
                    .remedy = "Reduce the loss with mean() or sum(), and compute it outside a no-grad guard from "
                              "parameters that require gradients"});
}

AcceleratorState state_of(const Plan& plan, const Group& group) {
  const auto parallel = plan.device.is_cpu() ? DistributedType::kMultiCpu : DistributedType::kMultiGpu;
  return {.world = plan.world,
          .distributed_type = plan.world.size > 1 ? parallel : DistributedType::kNo,
          .backend = group.core() == nullptr ? "" : group.core()->backends(),
          .device = plan.device,
          .mixed_precision = plan.precision.name,
          .debug = plan.debug};
}

/// One backward pass through several strategies: each that was told of it is told how it ended.
class Pass {
 public:
  using Models = std::vector<std::shared_ptr<ModelCore>>;
  explicit Pass(const Models& models) : models_(models) {}
  ~Pass() {
    for (size_t i = 0; i < begun_; ++i) models_[i]->strategy().backward_failed();
  }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  /// `sync` has an entry for each model.
  void begin(const at::Tensor& loss, const std::vector<GradientSync>& sync) {
    for (size_t i = 0; i < models_.size(); ++i) {
      models_[i]->strategy().before_backward(loss, sync[i]);
      ++begun_;
    }
  }
  /// All of them come to an end, also when one throws: the others' ranks are waiting.
  void finish() {
    std::exception_ptr first;
    const size_t begun = std::exchange(begun_, 0);
    for (size_t i = 0; i < begun; ++i) {
      try {
        models_[i]->strategy().after_backward();
      } catch (...) {
        if (!first) first = std::current_exception();
      }
    }
    if (first) std::rethrow_exception(first);
  }

 private:
  const Models& models_;
  size_t begun_ = 0;
};

}  // namespace

Runtime::Runtime(Plan plan, LogSink sink)
    : plan_(std::move(plan)),
      float32_(plan_.setup.float32),
      log_(std::move(sink), plan_.world.rank, plan_.setup.log_level),
      group_(connect({.world = plan_.world,
                      .rendezvous = plan_.rendezvous,
                      .store = plan_.store,
                      .process_group = plan_.process_group,
                      .device = plan_.device,
                      .backend = plan_.init_process_group.backend,
                      .timeout = plan_.init_process_group.timeout,
                      .rendezvous_timeout = plan_.init_process_group.rendezvous_timeout,
                      .liveness = LivenessRules::of(plan_.init_process_group.heartbeat_timeout,
                                                    plan_.init_process_group.slow_warning)},
                     log_)),
      state_(state_of(plan_, group_)),
      active_loaders_(std::make_shared<ActiveLoaders>()),
      sync_(std::make_shared<SyncSchedule>(
          SyncSchedule::Rule{.num_steps = plan_.accumulation.num_steps,
                             .sync_with_dataloader = plan_.accumulation.sync_with_dataloader,
                             .sync_each_batch = plan_.accumulation.sync_each_batch,
                             .divide_by_micro_steps = plan_.accumulation.divide_by == WindowDivisor::kMicroSteps},
          active_loaders_)),
      scaler_(plan_.precision.policy.scale_loss ? std::make_shared<GradScaler>(plan_.setup.scaler, plan_.device)
                                                : nullptr),
      memory_(owners_of(prepared_, plan_, sync_)) {
  keep_freed_memory();
  for (const std::string& warning : plan_.setup.warnings) log_.warning(warning);
  if (plan_.world.rank == 0) {
    if (const auto warning = kernel_warning(Kernel::of_host())) log_.warning(*warning);
  }
  make_current(plan_.device);
  require_same_plan(group_, plan_.fields);
  steps_ = make_recorder();
  follow_windows();
}

/// What devices have decided is written into the optimizers, which others may look at from now on.
void Runtime::resolve_updates() noexcept {
  for (const auto& weak : prepared_.optimizers) {
    try {
      if (const auto optimizer = weak.lock()) optimizer->resolve();
    } catch (...) {
      if (!kept_error_) kept_error_ = std::current_exception();
    }
  }
}

void Runtime::close() noexcept {
  resolve_updates();
  float32_.end();
  sync_->close();
  sync_->on_leave({});
  try {
    if (steps_) steps_->leave();
  } catch (...) {
    keep_error(std::current_exception());
  }
  steps_.reset();
  for (const auto& weak : released_) {
    if (const auto sync = weak.lock()) sync->close();
  }
  for (const auto& model : prepared_.models) model->end();
  prepared_ = {};
  if (group_.core() == nullptr) return;
  group_.core()->leave(std::uncaught_exceptions() > 0 ? "an exception ended its training" : "it ended training");
}

void Runtime::throw_kept_error() {
  if (kept_error_) std::rethrow_exception(std::exchange(kept_error_, nullptr));
}

void Runtime::prepare(std::span<PrepareItem> items) {
  sync_->require_open("prepare");
  throw_kept_error();
  require_no_open_join("prepare");
  check_items(items, prepared_, *sync_, group_);
  require_updatable(items, plan_.precision);
  const PreparationContext context{.plan = plan_,
                                   .group = group_,
                                   .log = log_,
                                   .sync = sync_,
                                   .active_loaders = active_loaders_,
                                   .open_joins = open_joins_,
                                   .scaler = scaler_,
                                   .steps = steps_,
                                   .memory = memory_,
                                   .prepared = prepared_};
  const auto counted = count_in(*memory_, items, prepared_);
  prepared_ = explaining_memory(memory_, MemoryPhase::kPrepare, [&] { return build_items(items, prepared_, context); });
}

void Runtime::correct_window() {
  if (!sync_->rule().divide_by_micro_steps || sync_->correction() == 1) return;
  std::vector<at::Tensor> parameters;
  for (const auto& model : prepared_.models) {
    if (model->loss_weights().any()) continue;  // sums, which nobody has divided
    for (const at::Tensor& parameter : model->trainable()) parameters.push_back(parameter);
  }
  auto kinds = gradients_by_kind(parameters);
  scale(kinds, at::scalar_tensor(sync_->correction(), at::kDouble));
}

void Runtime::release() {
  sync_->require_open("free_memory");
  throw_kept_error();
  require_no_open_join("free_memory");
  resolve_updates();
  auto next = std::make_shared<SyncSchedule>(sync_->rule(), active_loaders_);
  if (steps_) steps_->forget();
  sync_->close(SyncSchedule::End::kReleased);
  sync_->on_leave({});
  for (const auto& model : prepared_.models) model->end();
  std::erase_if(released_, [](const auto& sync) { return sync.expired(); });
  released_.push_back(sync_);
  std::vector<std::weak_ptr<LoaderCore>> loaders = std::move(prepared_.released);
  std::erase_if(loaders, [](const auto& loader) { return loader.expired(); });
  for (const auto& loader : prepared_.loaders) loaders.push_back(loader.prepared);
  prepared_ = {};
  prepared_.released = std::move(loaders);
  sync_ = std::move(next);
  follow_windows();
}

void Runtime::empty_cache() const {
  if (!plan_.device.is_cpu()) at::getDeviceAllocator(plan_.device.type())->emptyCache();
}

std::vector<std::shared_ptr<OptimizerCore>> Runtime::optimizers_of(const std::vector<at::Tensor>& parameters) const {
  std::unordered_set<const void*> wanted;
  for (const at::Tensor& parameter : parameters) wanted.insert(parameter.unsafeGetTensorImpl());
  const auto is_wanted = [&](const at::Tensor& one) { return wanted.contains(one.unsafeGetTensorImpl()); };
  std::vector<std::shared_ptr<OptimizerCore>> found;
  for (const auto& weak : prepared_.optimizers) {
    auto optimizer = weak.lock();
    if (!optimizer) continue;
    const auto& groups = optimizer->inner().param_groups();
    if (std::ranges::any_of(groups,
                            [&](const auto& group) { return std::ranges::any_of(group.params(), is_wanted); })) {
      found.push_back(std::move(optimizer));
    }
  }
  return found;
}

void Runtime::unscale_gradients_of(const std::vector<at::Tensor>& parameters) const {
  if (!scaler_) return;
  for (const auto& optimizer : optimizers_of(parameters)) optimizer->unscale_gradients();
}

at::Tensor Runtime::clip_grad_norm(const std::vector<at::Tensor>& parameters, const ClipNormOptions& options,
                                   const ParameterName& name) const {
  if (scaler_ && options.norm_type == 2 && options.max_norm > 0 && !options.error_if_nonfinite) {
    const auto optimizers = optimizers_of(parameters);
    if (optimizers.size() == 1) {
      if (auto norm = optimizers.front()->clip_scaled(parameters, options.max_norm)) return *std::move(norm);
    }
  }
  unscale_gradients_of(parameters);
  return internal::clip_grad_norm(parameters, options, name);
}

void Runtime::unscale_gradients() const {
  for (const auto& weak : prepared_.optimizers) {
    if (const auto optimizer = weak.lock()) optimizer->unscale_gradients();
  }
}

bool Runtime::optimizer_step_was_skipped() const {
  return std::any_of(prepared_.optimizers.begin(), prepared_.optimizers.end(), [](const auto& optimizer) {
    const auto core = optimizer.lock();
    return core != nullptr && core->step_was_skipped();
  });
}

void Runtime::backward(const at::Tensor& loss, const BackwardOptions& options) {
  explaining_memory(memory_, MemoryPhase::kBackward, [&] { run_backward(loss, options); });
}

void Runtime::run_backward(const at::Tensor& loss, const BackwardOptions& options) {
  sync_->require_open("backward");
  throw_kept_error();
  sync_->require_window("backward");
  check_loss(loss);
  WeightedPass weights(prepared_.models, group_, loss, options);
  if (weights.counts()) open_joins_->require_none(Counted::kLosses);
  const int64_t divisor = sync_->divisor();
  at::Tensor scaled = loss;
  if (weights.counts()) {
    scaled = weights.begin(loss, sync_->sync_gradients());
  } else if (divisor != 1) {
    scaled = loss / divisor;
  }
  if (scaler_) scaled = scaler_->scale(scaled);
  PassOptions pass{.retain_graph = options.retain_graph || options.create_graph, .create_graph = options.create_graph};
  for (const auto& model : prepared_.models) pass.sync.push_back(model->backward_sync(scaled));
  if (steps_ && steps_->is_open()) {
    steps_->backward(scaled, pass);
  } else {
    run(scaled, pass);
  }
  weights.finish();
}

void Runtime::run(const at::Tensor& root, const PassOptions& options) {
  Pass pass(prepared_.models);
  pass.begin(root, options.sync);
  torch::autograd::backward({root}, /*grad_tensors=*/{}, options.retain_graph, options.create_graph);
  pass.finish();
}

void Runtime::repeated(const PassOptions& options) {
  for (size_t i = 0; i < prepared_.models.size(); ++i) {
    prepared_.models[i]->strategy().backward_repeated(options.sync[i]);
  }
}

std::shared_ptr<void> Runtime::capturing() {
  if (group_.core() == nullptr) return std::make_shared<char>();
  group_.core()->arrivals().forget();
  return group_.core()->capturing();
}

bool Runtime::arrives_yet(const at::Tensor& tensor) const {
  return group_.core() != nullptr && group_.core()->arrivals().write(tensor);
}

void Runtime::await_arrivals() {
  if (group_.core() != nullptr) group_.core()->arrivals().await();
}

void Runtime::launch(CapturedWork& work) {
  if (group_.core() == nullptr) return work.launch();
  // Other ranks may be waited for in it.
  group_.core()->launch("captured step", plan_.device, [&] { work.launch(); });
}

/// So that rates need not be brought to the device in the middle of a step.
void Runtime::prepare_updates() const {
  for (const auto& weak : prepared_.optimizers) {
    if (const auto optimizer = weak.lock()) optimizer->prepare_step();
  }
}

std::shared_ptr<StepRecorder> Runtime::make_recorder() {
  if (!plan_.cuda_graph) return nullptr;
  const auto some_gradient = [this] {
    for (const auto& model : prepared_.models) {
      for (const ParameterRow& row : model->table()) {
        if (row.tensor.requires_grad()) {
          if (row.tensor.grad().defined()) return true;
          break;
        }
      }
    }
    return false;
  };
  return std::make_shared<StepRecorder>(
      *plan_.cuda_graph, plan_.device, plan_.capture.make(plan_.device), static_cast<TapeHost&>(*this),
      StepHooks{.before_step = [this] { prepare_updates(); }, .has_gradients = some_gradient}, log_);
}

void Runtime::follow_windows() {
  if (!steps_) return;
  sync_->on_leave([this] {
    try {
      std::uncaught_exceptions() > 0 ? steps_->leave() : steps_->window_left();
    } catch (...) {
      keep_error(std::current_exception());  // a guard's end cannot throw
    }
  });
}

}  // namespace accelerate::internal
