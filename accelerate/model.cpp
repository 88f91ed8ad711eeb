#include "accelerate/model.h"

#include <torch/nn/module.h>

#include "accelerate/optim/sync_schedule.h"
#include "accelerate/precision/autocast.h"

namespace accelerate::internal {

ModelCore::ModelCore(std::shared_ptr<torch::nn::Module> module, c10::Device device, PrecisionPolicy policy,
                     std::unique_ptr<Strategy> strategy, const Group& group, std::shared_ptr<const SyncSchedule> sync,
                     Log log)
    : module_(std::move(module)),
      device_(device),
      policy_(policy),
      strategy_(std::move(strategy)),
      sync_(std::move(sync)),
      table_(strategy_->attach({.module = *module_, .group = group, .precision = policy_, .log = std::move(log)})) {}

ModelCore::~ModelCore() = default;

void ModelCore::run(ForwardCall& call) {
  if (!sync_->closed()) {
    strategy_->before_forward(sync_->sync_gradients() ? GradientSync::kReduce : GradientSync::kAccumulate);
  }
  {
    const AutocastScope autocast = autocast_scope(policy_, device_.type());
    call.invoke();
  }
  if (!policy_.output) return;
  call.for_each_output([&](at::Tensor& tensor) {
    const bool low = tensor.defined() && (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16);
    if (low) tensor = tensor.to(*policy_.output);
  });
}

std::vector<at::Tensor> ModelCore::trainable() const {
  std::vector<at::Tensor> tensors;
  for (const ParameterRow& row : table_) {
    // Layers may have been unfrozen since the strategy was attached.
    if (row.trainable || row.tensor.requires_grad()) tensors.push_back(row.tensor);
  }
  return tensors;
}

}  // namespace accelerate::internal
