#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

class EmaCore;
class MasterWeights;

/// Computes the gradients anew and returns the loss.
using LossClosure = std::function<at::Tensor()>;

/// What an update does to gradients, and whether it takes place; both known to the device alone.
struct Verdict {
  at::Tensor factor = {};  ///< float32, one element: gradients are multiplied by it, and written; undefined: 1
  at::Tensor skip = {};    ///< float32, one element: not 0 leaves out all but that; undefined: 0
};

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

  /// Whether the next step can be left out by the device, which has all parameters: it then is the same call of the
  /// same operators every time.
  virtual bool takes_verdict(c10::Device) const { return false; }
  /// A step as the device decides. The host counts it as applied. Throws UsageError where not `takes_verdict()`.
  virtual void step_if(const Verdict& verdict);
  /// The device has skipped the last `step_if`: what the host has counted is taken back.
  virtual void take_back() {}
  /// Brings the host's learning rates to the device if they have changed. Waits for nothing.
  virtual void upload_rates() {}
  /// Whether the device has the host's learning rates: never where they are passed with each step.
  virtual bool rates_are_uploaded() const { return false; }
  /// The float32 that a parameter of 16 bits is the rounded copy of, to be read or written: what is written here is the
  /// parameter's after the next update. Null: it has none, or none yet.
  virtual const at::Tensor* master_of(const at::Tensor&) const { return nullptr; }

  /// Averages that kernels of the next step may write; null: none. Borrowed.
  void be_followed_by(EmaCore* averages) { averages_ = averages; }

 protected:
  EmaCore* averages() const { return averages_; }

 private:
  EmaCore* averages_ = nullptr;
};

/// Where learning rates and counts of updates are kept for the kernels.
enum class Counters {
  kWithParameters,  ///< on the device of CUDA parameters; on the host for others
  kOnDevice,        ///< on the parameters' device, be it the CPU
};

/// Whether parameters of 16 bits are updated in float32, of which they are the rounded copies.
enum class Masters {
  kNone,
  kFloat32,  ///< state is float32, too
};

struct UpdateOptions {
  Counters counters = Counters::kWithParameters;
  Masters masters = Masters::kNone;
  std::shared_ptr<MasterWeights> weights = {};  ///< where the masters are; null: nobody else asks for them
  /// Parameters of bfloat16 without masters are rounded stochastically, with numbers that follow from this seed; state
  /// is float32, too.
  std::optional<int64_t> rounding_seed = {};
  /// Whether a parameter's gradient may still be on its way when the update is captured: those are updated in a call of
  /// their own, after the others. Empty: none is.
  std::function<bool(const at::Tensor& parameter)> comes_last = {};
};

/// Fused for exactly `AdamW`, `Adam`, `SGD`, `Adagrad` and `Lion` (a subclass may have changed the arithmetic), else
/// the stock step, which sees float32 parameters and gradients where there are masters or parameters are rounded
/// stochastically. `LBFGS` throws UsageError for a step without a closure. The optimizer is borrowed.
std::unique_ptr<Update> make_update(torch::optim::Optimizer& optimizer, UpdateOptions options = {});

std::unique_ptr<Update> make_fused_adamw(torch::optim::Optimizer& optimizer, UpdateOptions options);
std::unique_ptr<Update> make_fused_adam(torch::optim::Optimizer& optimizer, UpdateOptions options);
std::unique_ptr<Update> make_fused_sgd(torch::optim::Optimizer& optimizer, UpdateOptions options);
std::unique_ptr<Update> make_fused_lion(torch::optim::Optimizer& optimizer, UpdateOptions options);
std::unique_ptr<Update> make_fused_adagrad(torch::optim::Optimizer& optimizer, UpdateOptions options);

}  // namespace accelerate::internal
