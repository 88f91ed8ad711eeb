#include "accelerate/optim/update.h"

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>

#include <string>
#include <typeinfo>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/optim/lion.h"
#include "accelerate/optim/wide_parameters.h"

namespace accelerate::internal {
namespace {

class StockUpdate : public Update {
 public:
  explicit StockUpdate(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  void step() override { optimizer_.step(); }
  at::Tensor step_with(const LossClosure& closure) override { return optimizer_.step(closure); }
  std::string_view name() const override { return "stock"; }

 private:
  torch::optim::Optimizer& optimizer_;
};

/// The loss is computed once, with the model's own parameters, before the step sees wide ones.
class WideStockUpdate final : public Update {
 public:
  WideStockUpdate(torch::optim::Optimizer& optimizer, UpdateOptions options)
      : optimizer_(optimizer), wide_(std::move(options)) {}
  void step() override {
    wide_.run(optimizer_, [this] { optimizer_.step(); });
  }
  std::string_view name() const override { return "stock in float32"; }
  const at::Tensor* master_of(const at::Tensor& parameter) const override { return wide_.master_of(parameter); }

 private:
  torch::optim::Optimizer& optimizer_;
  WideParameters wide_;
};

/// Each step asks for the loss and the gradients at several points.
class ClosureUpdate final : public StockUpdate {
 public:
  using StockUpdate::StockUpdate;
  void step() override {
    throw UsageError({.place = "optimizer.step",
                      .what = "The optimizer needs a closure that computes the gradients again",
                      .got = "step() of torch::optim::LBFGS without one",
                      .expected = "step(closure)",
                      .remedy = "Write `optimizer.step([&] { optimizer.zero_grad(); auto loss = ...; "
                                "accelerator.backward(loss); return loss; });`"});
  }
};

}  // namespace

at::Tensor Update::step_with(const LossClosure& closure) {
  at::Tensor loss = closure();
  step();
  return loss;
}

void Update::step_if(const Verdict&) {
  throw UsageError({.place = "optimizer.step",
                    .what = "The update cannot be left out by the device",
                    .got = "a verdict for the update `" + std::string(name()) + "`",
                    .expected = "an update that takes one",
                    .remedy = "Ask takes_verdict(device) first"});
}

std::unique_ptr<Update> make_update(torch::optim::Optimizer& optimizer, UpdateOptions options) {
  const std::type_info& type = typeid(optimizer);
  if (type == typeid(torch::optim::AdamW)) return make_fused_adamw(optimizer, std::move(options));
  if (type == typeid(torch::optim::Adam)) return make_fused_adam(optimizer, std::move(options));
  if (type == typeid(torch::optim::SGD)) return make_fused_sgd(optimizer, std::move(options));
  if (type == typeid(Lion)) return make_fused_lion(optimizer, std::move(options));
  if (type == typeid(torch::optim::Adagrad)) return make_fused_adagrad(optimizer, std::move(options));
  if (dynamic_cast<torch::optim::LBFGS*>(&optimizer) != nullptr) return std::make_unique<ClosureUpdate>(optimizer);
  if (WideParameters::are_wanted(options)) return std::make_unique<WideStockUpdate>(optimizer, std::move(options));
  return std::make_unique<StockUpdate>(optimizer);
}

}  // namespace accelerate::internal
