// One rank holds the whole model; nothing has to be exchanged.
#include <torch/nn/module.h>

#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {
namespace {

class Single final : public Strategy {
 public:
  ParameterTable attach(const AttachContext& context) override {
    module_ = &context.module;
    return table();
  }

  void before_backward(const at::Tensor&, GradientSync) override {}
  void after_backward() override {}

  void save(StateWriter& writer) const override {
    for (const ParameterRow& row : table()) writer.write(entry(row));
  }
  void load(StateReader& reader) override {
    for (const ParameterRow& row : table()) reader.read(entry(row));
  }

 private:
  /// As the module is now: layers may have been replaced since it was attached.
  ParameterTable table() const {
    ParameterTable rows;
    const auto add = [&](const std::string& name, const at::Tensor& tensor, bool trainable) {
      if (!tensor.defined()) return;
      rows.push_back({name, tensor, tensor.sizes().vec(), {0, tensor.numel()}, trainable});
    };
    for (const auto& item : module_->named_parameters()) add(item.key(), item.value(), item.value().requires_grad());
    for (const auto& item : module_->named_buffers()) add(item.key(), item.value(), false);
    return rows;
  }
  static ShardedTensor entry(const ParameterRow& row) { return {row.name, row.global_shape, row.held, row.tensor}; }

  torch::nn::Module* module_ = nullptr;
};

}  // namespace

StrategyEntry strategy_single() {
  return {"single", 0,
          [](const World& world) -> std::optional<std::string> {
            if (world.size == 1) return std::nullopt;
            return "it trains in one process and there are " + std::to_string(world.size);
          },
          [](const std::any&) -> std::unique_ptr<Strategy> { return std::make_unique<Single>(); }};
}

}  // namespace accelerate::internal
