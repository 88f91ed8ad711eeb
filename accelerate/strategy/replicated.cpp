#include "accelerate/strategy/replicated.h"

#include <torch/nn/module.h>

namespace accelerate::internal {
namespace {

ShardedTensor entry(const ParameterRow& row) { return {row.name, row.global_shape, row.held, row.tensor}; }

}  // namespace

ParameterTable whole_table(const torch::nn::Module& module) {
  ParameterTable rows;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) -> ParameterRow* {
    if (!tensor.defined()) return nullptr;
    return &rows.emplace_back(ParameterRow{name, tensor, tensor.sizes().vec(), {0, tensor.numel()}});
  };
  for (const auto& item : module.named_parameters()) {
    if (ParameterRow* row = add(item.key(), item.value())) row->trainable = item.value().requires_grad();
  }
  for (const auto& item : module.named_buffers()) {
    if (ParameterRow* row = add(item.key(), item.value())) row->buffer = true;
  }
  return rows;
}

void save_whole(const torch::nn::Module& module, StateWriter& writer) {
  for (const ParameterRow& row : whole_table(module)) writer.write(entry(row));
}

void load_whole(const torch::nn::Module& module, StateReader& reader) {
  for (const ParameterRow& row : whole_table(module)) reader.read(entry(row));
}

}  // namespace accelerate::internal
