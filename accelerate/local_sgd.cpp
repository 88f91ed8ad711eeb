#include "accelerate/local_sgd.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <exception>
#include <string>
#include <unordered_set>
#include <utility>

#include "accelerate/comm/collectives.h"
#include "accelerate/comm/debug.h"
#include "accelerate/core/error.h"
#include "accelerate/optim/master_weights.h"
#include "accelerate/runtime.h"

namespace accelerate {
namespace {

constexpr int64_t kPartBytes = 25 << 20;  ///< that travel at once, beside a copy of them

/// Every parameter once, whether it is trained or not; whole numbers have no mean.
std::vector<at::Tensor> parameters_of(const internal::ModelCore& model) {
  std::vector<at::Tensor> parameters;
  std::unordered_set<const void*> seen;
  for (const at::Tensor& parameter : model.module()->parameters()) {
    if (!at::isFloatingType(parameter.scalar_type()) && !parameter.is_complex()) continue;
    if (seen.insert(parameter.unsafeGetTensorImpl()).second) parameters.push_back(parameter);
  }
  return parameters;
}

/// What is trained of a parameter: a master, or itself. The same on all processes.
at::Tensor trained(internal::MasterWeights* masters, const at::Tensor& parameter) {
  const at::ScalarType dtype = parameter.scalar_type();
  const bool is_rounded =
      masters != nullptr && parameter.requires_grad() && (dtype == at::kBFloat16 || dtype == at::kHalf);
  return is_rounded ? masters->of(parameter) : parameter.detach();
}

void require_whole(const internal::ModelCore& model) {
  for (const ParameterRow& row : model.table()) {
    if (row.held == Range{0, row.tensor.numel()} && row.tensor.sizes() == at::IntArrayRef(row.global_shape)) continue;
    throw UsageError({.place = "LocalSGD",
                      .what = "The model is not held whole by every process",
                      .got = "a part of \"" + row.name + "\"",
                      .expected = "a model that is replicated",
                      .remedy = "Choose `.strategy = accelerate::Ddp{}`"});
  }
}

}  // namespace

LocalSGD::LocalSGD(Accelerator& accelerator, const std::shared_ptr<internal::ModelCore>& model, LocalSGDOptions options,
                   GradientSyncScope local)
    : runtime_(&accelerator.runtime()), options_(options), exceptions_(std::uncaught_exceptions()) {
  if (options_.local_sgd_steps < 1) {
    throw UsageError({.place = "LocalSGD",
                      .what = "The number of steps between two averages is not positive",
                      .got = ".local_sgd_steps = " + std::to_string(options_.local_sgd_steps),
                      .expected = "1 or more",
                      .remedy = "Set LocalSGDOptions::local_sgd_steps"});
  }
  if (!options_.enabled || accelerator.num_processes() == 1) return;
  require_whole(*model);
  parameters_ = parameters_of(*model);
  masters_ = model->masters();
  require_unfollowed();
  local_.emplace(std::move(local));
  if (const auto& scaler = runtime_->scaler()) parted_ = scaler->part();
}

LocalSGD::LocalSGD(LocalSGD&& other) noexcept
    : runtime_(other.runtime_),
      options_(other.options_),
      local_(std::exchange(other.local_, std::nullopt)),
      parted_(std::move(other.parted_)),
      parameters_(std::move(other.parameters_)),
      masters_(std::move(other.masters_)),
      num_steps_(other.num_steps_),
      exceptions_(other.exceptions_),
      finished_(other.finished_) {}

LocalSGD::~LocalSGD() {
  // An exception ends the loop of this process: the others hear of it when its Accelerator goes.
  if (!local_ || std::uncaught_exceptions() > exceptions_) return;
  try {
    finish();
  } catch (const std::exception& error) {
    runtime_->log().warning(std::string("LocalSGD: its parameters were not averaged at the end: ") + error.what());
    runtime_->keep_error(std::current_exception());
  }
}

void LocalSGD::step() {
  if (finished_) {
    throw UsageError({.place = "LocalSGD",
                      .what = "It has finished",
                      .got = "step() after finish()",
                      .expected = "it before",
                      .remedy = "Make a new LocalSGD"});
  }
  ++num_steps_;
  if (!local_ || num_steps_ % options_.local_sgd_steps != 0) return;
  require_unfollowed();
  average();
}

void LocalSGD::finish() {
  finished_ = true;
  if (!local_) return;
  const auto local = std::exchange(local_, std::nullopt);  // ends also when averaging fails
  const auto parted = std::exchange(parted_, nullptr);
  average();
}

/// Averages of weights would follow before these are averaged over the processes.
void LocalSGD::require_unfollowed() const {
  for (const auto& optimizer : runtime_->optimizers_of(parameters_)) {
    if (!optimizer->leads()) continue;
    throw UsageError({.place = "LocalSGD",
                      .what = "Averages follow the optimizer before its weights are those of all processes",
                      .got = "an Ema with follow(optimizer)",
                      .expected = "one that is updated after local.step()",
                      .remedy = "Write `const auto result = optimizer.step(); local.step(); ema.update(result);`"});
  }
}

void LocalSGD::average() {
  const at::NoGradGuard no_grad;
  if (runtime_->plan().debug) internal::require_same_call(runtime_->group(), "LocalSGD", "");
  for (size_t begin = 0; begin < parameters_.size();) {
    std::vector<at::Tensor> values;
    int64_t bytes = 0;
    for (size_t i = begin; i < parameters_.size(); ++i) {
      const at::Tensor value = trained(masters_.get(), parameters_[i]);
      bytes += static_cast<int64_t>(value.nbytes());
      if (i > begin && bytes > kPartBytes) break;
      values.push_back(value);
    }
    std::vector<at::Tensor*> means;
    for (at::Tensor& value : values) means.push_back(&value);
    internal::reduce_all(runtime_->group(), means, {.reduction = "mean"});
    for (const at::Tensor& value : values) {
      const at::Tensor& parameter = parameters_[begin++];
      const at::Tensor own = trained(masters_.get(), parameter);
      own.copy_(value);
      if (own.scalar_type() == parameter.scalar_type()) continue;
      parameter.detach().copy_(own);
      masters_->written(parameter);
    }
  }
  if (!runtime_->scaler()) return;
  // The smallest, with which no process has lost an update.
  for (at::Tensor& number : runtime_->scaler()->tensors()) runtime_->group().all_reduce(number, ReduceOp::kMin).wait();
}

}  // namespace accelerate
