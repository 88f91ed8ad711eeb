// One rank holds the whole model; nothing has to be exchanged.
#include <torch/nn/module.h>

#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {
namespace {

class Single final : public Strategy {
 public:
  ParameterTable attach(const AttachContext& context) override {
    for (const auto& item : context.module.named_parameters())
      add(item.key(), item.value(), item.value().requires_grad());
    for (const auto& item : context.module.named_buffers()) add(item.key(), item.value(), false);
    return table_;
  }

  void before_backward(const at::Tensor&, GradientSync) override {}
  void after_backward() override {}

  void save(StateWriter& writer) const override {
    for (const ParameterRow& row : table_) writer.write(entry(row));
  }
  void load(StateReader& reader) override {
    for (const ParameterRow& row : table_) reader.read(entry(row));
  }

 private:
  void add(const std::string& name, const at::Tensor& tensor, bool trainable) {
    if (!tensor.defined()) return;
    table_.push_back({name, tensor, tensor.sizes().vec(), {0, tensor.numel()}, trainable});
  }
  static ShardedTensor entry(const ParameterRow& row) { return {row.name, row.global_shape, row.held, row.tensor}; }

  ParameterTable table_;
};

}  // namespace

StrategyEntry strategy_single() {
  return {"single",
          [](const World& world) -> std::optional<std::string> {
            if (world.size == 1) return std::nullopt;
            return "it trains in one process and there are " + std::to_string(world.size);
          },
          []() -> std::unique_ptr<Strategy> { return std::make_unique<Single>(); }};
}

}  // namespace accelerate::internal
