#pragma once

#include <ATen/core/Tensor.h>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"
#include "accelerate/precision/policy.h"
#include "accelerate/tensor/memory_remedy.h"
#include "accelerate/tensor/parameters.h"
#include "accelerate/tensor/state.h"

namespace torch::nn {
class Module;
}

namespace accelerate {

namespace internal {
class Shadow;
}

/// What a strategy may know when it takes a model.
struct AttachContext {
  torch::nn::Module& module;  ///< already on its device; outlives the strategy
  Group group;                ///< the ranks of the mesh axis it works on
  PrecisionPolicy precision;
  Log log;
};

/// Whether a backward pass ends with equal gradients on every rank or leaves them local to be added to.
enum class GradientSync { kReduce, kAccumulate };

/// How one model is spread over the ranks of a mesh axis. Calls come in the order attach, then any number of
/// before_forward and (before_backward, after_backward) pairs; save and load between those.
class Strategy {
 public:
  virtual ~Strategy() = default;
  /// Once, before any optimizer steps. May change a parameter's storage, never which TensorImpl it is.
  virtual ParameterTable attach(const AttachContext& context) = 0;
  /// `sync` is what the micro-step's backward pass will be asked for.
  virtual void before_forward(GradientSync) {}
  /// Before autograd runs from `loss`, which may or may not reach this model.
  virtual void before_backward(const at::Tensor& loss, GradientSync sync) = 0;
  /// Waits for what `before_backward` started. Throws UsageError naming the parameters that did not finish. Left out
  /// when autograd itself throws.
  virtual void after_backward() = 0;
  /// Autograd threw after `before_backward`; the next pass starts anew.
  virtual void backward_failed() noexcept {}
  /// Instead of before_backward and after_backward, where the device repeats a recorded pass as a whole: notes what
  /// they would have noted.
  virtual void backward_repeated(GradientSync) {}
  /// Whether `before_forward` would exchange something with the other ranks now.
  virtual bool exchanges_before_forward() const { return false; }
  /// Before an optimizer updates parameters of this model. Throws UsageError when their gradients are not those that
  /// every rank has.
  virtual void before_update() {}
  /// Whether the gradient of `parameter` is among those that come from the other ranks last, perhaps after everything
  /// else that a pass does: an update may begin with the others. The answer changes seldom.
  virtual bool comes_last(const at::Tensor&) const { return false; }
  /// What it holds on the model's device, for an error that says who has the memory; gradients that lie in it are not
  /// counted.
  virtual internal::ExtraMemory extra_memory() const { return {}; }
  /// Its side of `join_uneven_inputs`; null: models spread like this cannot be joined. Lives as long as the strategy.
  virtual internal::Shadow* shadow() { return nullptr; }
  /// Training has ended: lets go of the ranks. The model goes on alone.
  virtual void end() noexcept {}
  /// Writes every parameter and buffer under the user's own keys, in the module's order.
  virtual void save(StateWriter& writer) const = 0;
  virtual void load(StateReader& reader) = 0;
};

}  // namespace accelerate
