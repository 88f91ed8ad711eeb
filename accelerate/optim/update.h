#pragma once

#include <memory>
#include <string_view>

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

/// How the parameters of one `torch::optim` optimizer are updated from their gradients. State lives in the optimizer,
/// in its own types, so that a stock `step()`, a save or a look at it in between sees the truth.
class Update {
 public:
  virtual ~Update() = default;
  virtual void step() = 0;
  /// "stock", "fused adamw", ...
  virtual std::string_view name() const = 0;
};

/// Fused for exactly `AdamW`, `Adam` and `SGD` (a subclass may have changed the arithmetic), else the stock step.
/// The optimizer is borrowed.
std::unique_ptr<Update> make_update(torch::optim::Optimizer& optimizer);

std::unique_ptr<Update> make_fused_adamw(torch::optim::Optimizer& optimizer);
std::unique_ptr<Update> make_fused_adam(torch::optim::Optimizer& optimizer);
std::unique_ptr<Update> make_fused_sgd(torch::optim::Optimizer& optimizer);

}  // namespace accelerate::internal
