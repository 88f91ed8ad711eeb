#include "accelerate/strategy/replicated.h"

#include <torch/nn/module.h>

namespace accelerate::internal {
namespace {

ShardedTensor entry(const ParameterRow& row) { return {row.name, row.global_shape, row.held, row.tensor}; }

}  // namespace

ParameterTable whole_table(const torch::nn::Module& module) {
  ParameterTable rows;
  const auto add = [&](const std::string& name, const at::Tensor& tensor, bool trainable) {
    if (!tensor.defined()) return;
    rows.push_back({name, tensor, tensor.sizes().vec(), {0, tensor.numel()}, trainable});
  };
  for (const auto& item : module.named_parameters()) add(item.key(), item.value(), item.value().requires_grad());
  for (const auto& item : module.named_buffers()) add(item.key(), item.value(), false);
  return rows;
}

void save_whole(const torch::nn::Module& module, StateWriter& writer) {
  for (const ParameterRow& row : whole_table(module)) writer.write(entry(row));
}

void load_whole(const torch::nn::Module& module, StateReader& reader) {
  for (const ParameterRow& row : whole_table(module)) reader.read(entry(row));
}

}  // namespace accelerate::internal
