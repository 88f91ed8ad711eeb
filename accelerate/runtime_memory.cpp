// Who holds a device's memory, for the error that says there is none left.
#include "accelerate/runtime_memory.h"

#include <ATen/ATen.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>

#include <algorithm>

#include "accelerate/optim/master_weights.h"
#include "accelerate/optim/move_state.h"
#include "accelerate/tensor/memory_bytes.h"

namespace accelerate::internal {
namespace {

int64_t parameters_of(const PreparedObjects& prepared, c10::Device device) {
  MemoryCount count(device);
  for (const auto& model : prepared.models) {
    for (const ParameterRow& row : model->table()) count.add(row.tensor);
  }
  return count.bytes();
}

int64_t gradients_of(const PreparedObjects& prepared, c10::Device device) {
  MemoryCount count(device);
  for (const auto& model : prepared.models) {
    for (const ParameterRow& row : model->table()) count.add(row.tensor.grad());
  }
  return count.bytes();
}

int64_t states_of(const PreparedObjects& prepared, c10::Device device) {
  MemoryCount count(device);
  for (const auto& weak : prepared.optimizers) {
    const auto optimizer = weak.lock();
    if (optimizer == nullptr) continue;
    for (const auto& entry : optimizer->inner().state()) {
      for (const at::Tensor* tensor : tensors_of_state(*entry.second)) count.add(*tensor);
    }
  }
  return count.bytes() + (prepared.masters ? prepared.masters->bytes_on(device) : 0);
}

int64_t buckets_of(const PreparedObjects& prepared) {
  int64_t bytes = 0;
  for (const auto& model : prepared.models) bytes += model->strategy().extra_memory().bytes;
  return bytes;
}

MemoryRemedy remedy_of(const PreparedObjects& prepared) {
  MemoryRemedy all;
  for (const auto& model : prepared.models) {
    const MemoryRemedy remedy = model->strategy().extra_memory().remedy;
    all.saves += remedy.saves;
    if (!remedy.text.empty()) all.text = remedy.text;
  }
  return all;
}

}  // namespace

std::shared_ptr<MemoryOwners> owners_of(const PreparedObjects& prepared, const Plan& plan,
                                        const std::shared_ptr<SyncSchedule>& sync) {
  auto owners = std::make_shared<MemoryOwners>(plan.device);
  const std::weak_ptr<const void> itself = owners;
  owners->add(MemoryOwner::kParameters, itself, [&](c10::Device device) { return parameters_of(prepared, device); });
  owners->add(MemoryOwner::kGradients, itself, [&](c10::Device device) { return gradients_of(prepared, device); });
  owners->add(MemoryOwner::kOptimizerState, itself, [&](c10::Device device) { return states_of(prepared, device); });
  owners->add(MemoryOwner::kBuckets, itself, [&](c10::Device) { return buckets_of(prepared); });
  owners->add_remedy(itself, [&] { return remedy_of(prepared); });
  owners->set_setting([&plan, &sync] {
    return MemorySetting{.gradient_accumulation_steps = sync->num_steps(),
                         .first_micro_step = sync->is_first_of_window(),
                         .narrow = plan.precision.policy.low().has_value() &&
                                   c10::elementSize(*plan.precision.policy.low()) < c10::elementSize(at::kFloat)};
  });
  return owners;
}

std::shared_ptr<const void> count_in(MemoryOwners& owners, std::span<const PrepareItem> items,
                                     const PreparedObjects& prepared) {
  std::vector<std::weak_ptr<torch::nn::Module>> modules;  // the list may keep this after the token has gone
  for (const PrepareItem& item : items) {
    const auto* model = std::get_if<ModelItem>(&item);
    if (model == nullptr) continue;
    const auto known = [&](const auto& other) { return other->module() == model->module; };
    if (std::none_of(prepared.models.begin(), prepared.models.end(), known)) modules.push_back(model->module);
  }
  auto token = std::make_shared<const int>(0);
  owners.add(MemoryOwner::kParameters, token, [modules = std::move(modules)](c10::Device device) {
    MemoryCount count(device);
    for (const auto& weak : modules) {
      const auto module = weak.lock();
      if (module == nullptr) continue;
      for (const at::Tensor& tensor : module->parameters()) count.add(tensor);
      for (const at::Tensor& tensor : module->buffers()) count.add(tensor);
    }
    return count.bytes();
  });
  return token;
}

}  // namespace accelerate::internal
