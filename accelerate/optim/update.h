#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string_view>

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

/// Computes the gradients anew and returns the loss.
using LossClosure = std::function<at::Tensor()>;

/// How the parameters of one `torch::optim` optimizer are updated from their gradients. State lives in the optimizer,
/// in its own types, so that a stock `step()`, a save or a look at it in between sees the truth.
class Update {
 public:
  virtual ~Update() = default;
  virtual void step() = 0;
  /// A step that computes the gradients itself, as often as the optimizer likes; returns what the optimizer does.
  virtual at::Tensor step_with(const LossClosure& closure);
  /// "stock", "fused adamw", ...
  virtual std::string_view name() const = 0;
};

/// Fused for exactly `AdamW`, `Adam`, `SGD` and `Adagrad` (a subclass may have changed the arithmetic), else the stock
/// step. `LBFGS` throws UsageError for a step without a closure. The optimizer is borrowed.
std::unique_ptr<Update> make_update(torch::optim::Optimizer& optimizer);

std::unique_ptr<Update> make_fused_adamw(torch::optim::Optimizer& optimizer);
std::unique_ptr<Update> make_fused_adam(torch::optim::Optimizer& optimizer);
std::unique_ptr<Update> make_fused_sgd(torch::optim::Optimizer& optimizer);
std::unique_ptr<Update> make_fused_adagrad(torch::optim::Optimizer& optimizer);

}  // namespace accelerate::internal
