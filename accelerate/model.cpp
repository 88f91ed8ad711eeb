#include "accelerate/model.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/nn/module.h>

#include <unordered_set>

#include "accelerate/nn/sync_batch_norm.h"
#include "accelerate/optim/sync_schedule.h"
#include "accelerate/precision/autocast.h"
#include "accelerate/step/recorder.h"
#include "accelerate/tensor/graph.h"
#include "accelerate/tensor/out_of_memory.h"

namespace accelerate::internal {

ModelCore::ModelCore(std::shared_ptr<torch::nn::Module> module, c10::Device device, PrecisionPolicy policy,
                     std::unique_ptr<Strategy> strategy, const Group& group, std::shared_ptr<const SyncSchedule> sync,
                     Log log, std::shared_ptr<StepRecorder> steps)
    : module_(std::move(module)),
      device_(device),
      policy_(policy),
      strategy_(std::move(strategy)),
      sync_(std::move(sync)),
      table_(strategy_->attach({.module = *module_, .group = group, .precision = policy_, .log = std::move(log)})),
      ranks_(group.size()),
      steps_(std::move(steps)) {
  bind_batch_norms(*module_, group);
}

ModelCore::~ModelCore() = default;

void ModelCore::end() noexcept {
  bind_batch_norms(*module_, Group());
  strategy_->end();
  steps_.reset();
}

void ModelCore::run(ForwardCall& call) {
  explaining_memory(memory_, MemoryPhase::kForward, [&] { run_in_precision(call); });
}

void ModelCore::begin_step(ForwardCall& call) {
  // What is evaluated, be it without a no-grad guard, is no step.
  if (!at::GradMode::is_enabled() || !module_->is_training() || steps_->is_open()) return;
  StepKind kind{.opened_by = this, .synchronizes = sync_->sync_gradients()};
  call.for_each_input([&](const at::Tensor& tensor) { kind.add(tensor); });
  steps_->open(std::move(kind));
}

void ModelCore::run_in_precision(ForwardCall& call) {
  if (!sync_->closed()) {
    if (steps_ && steps_->is_open() && strategy_->exchanges_before_forward()) {
      steps_->before_read("the exchange of a model's buffers");
    }
    strategy_->before_forward(sync_now());
    if (steps_) begin_step(call);
  }
  {
    const AutocastScope autocast = autocast_scope(policy_, device_.type());
    policy_.param ? call.invoke_in(*policy_.param) : call.invoke();
  }
  if (policy_.output) {
    call.for_each_output([&](at::Tensor& tensor) {
      const bool low = tensor.defined() && (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16);
      if (low) tensor = tensor.to(*policy_.output);
    });
  }
  if (!forced_.empty() || !local_forwards_.empty()) remember_local(call);
}

GradientSync ModelCore::sync_now() const {
  if (!forced_.empty()) return forced_.back().sync;
  return sync_->in_window() && sync_->window() == local_window_ ? GradientSync::kAccumulate : GradientSync::kReduce;
}

void ModelCore::remember_local(ForwardCall& call) {
  if (!at::GradMode::is_enabled()) return;
  if (sync_now() == GradientSync::kReduce) {
    local_forwards_.clear();
    return;
  }
  std::erase_if(local_forwards_, [](const auto& node) { return node.expired(); });
  call.for_each_output([&](at::Tensor& tensor) {
    if (tensor.defined() && tensor.grad_fn()) local_forwards_.push_back(tensor.grad_fn());
  });
}

GradientSync ModelCore::backward_sync(const at::Tensor& loss) {
  if (!forced_.empty() || local_forwards_.empty()) return sync_now();
  std::vector<std::shared_ptr<torch::autograd::Node>> alive;
  std::unordered_set<const torch::autograd::Node*> nodes;
  for (const auto& node : local_forwards_) {
    alive.push_back(node.lock());
    if (alive.back()) nodes.insert(alive.back().get());
  }
  return reaches(loss, nodes) ? GradientSync::kAccumulate : sync_now();
}

void ModelCore::before_update() {
  // Under `no_sync` each process trains on its own, as asked.
  if (sync_now() == GradientSync::kReduce) strategy_->before_update();
}

namespace {

/// Layers may have been unfrozen since the strategy was attached.
bool trains(const ParameterRow& row) { return row.trainable || row.tensor.requires_grad(); }

}  // namespace

std::vector<at::Tensor> ModelCore::trainable() const {
  std::vector<at::Tensor> tensors;
  tensors.reserve(table_.size());
  for (const ParameterRow& row : table_) {
    if (trains(row)) tensors.push_back(row.tensor);
  }
  return tensors;
}

std::vector<std::string> ModelCore::trainable_names() const {
  std::vector<std::string> names;
  for (const ParameterRow& row : table_) {
    if (trains(row)) names.push_back(row.name);
  }
  return names;
}

bool ModelCore::reached_by(const at::Tensor& loss) const {
  std::vector<std::shared_ptr<torch::autograd::Node>> alive;
  std::unordered_set<const torch::autograd::Node*> nodes;
  for (const at::Tensor& parameter : trainable()) {
    auto accumulator = torch::autograd::impl::try_get_grad_accumulator(parameter);
    if (accumulator == nullptr) continue;
    nodes.insert(accumulator.get());
    alive.push_back(std::move(accumulator));
  }
  return reaches(loss, nodes);
}

}  // namespace accelerate::internal
