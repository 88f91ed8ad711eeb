// One rank holds the whole model; nothing has to be exchanged.
#include "accelerate/strategy/choice.h"
#include "accelerate/strategy/replicated.h"
#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {
namespace {

class Single final : public Strategy {
 public:
  ParameterTable attach(const AttachContext& context) override {
    module_ = &context.module;
    return whole_table(*module_);
  }
  void before_backward(const at::Tensor&, GradientSync) override {}
  void after_backward() override {}
  void save(StateWriter& writer) const override { save_whole(*module_, writer); }
  void load(StateReader& reader) override { load_whole(*module_, reader); }

 private:
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
