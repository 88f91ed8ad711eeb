#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/strategy/strategy.h"

namespace accelerate::internal {

using TensorObject = c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
using WeakTensorObject = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
using WeakStorage = c10::weak_intrusive_ptr<c10::StorageImpl>;

/// One tensor that an operator takes or makes, by where it comes from.
struct Ref {
  enum class Kind : uint8_t {
    kNone,     ///< undefined
    kValue,    ///< made by an operator of the step
    kOutside,  ///< a tensor of the device that the step did not make
    kHost,     ///< a number on the host: the device gets it as an argument
    kUnknown,  ///< other tensors of the host, which operators of the host compute with
  };
  Kind kind = Kind::kNone;
  int32_t index = 0;
  bool requires_grad = false;  ///< of kOutside: at this use, since layers may be frozen for a part of the step
  bool operator==(const Ref&) const = default;
};

struct Argument {
  enum class Kind : uint8_t { kConstant, kTensor, kTensors, kOptionalTensors };
  Kind kind = Kind::kConstant;
  c10::IValue constant;  ///< neither holds nor is a tensor
  std::vector<Ref> tensors;

  bool takes(Ref::Kind what) const;
};

/// What of a thread's state decides what an operator does.
struct Mode {
  uint64_t included = 0, excluded = 0;  ///< dispatch keys
  bool grad = true;
  bool inference = false;
  std::optional<at::ScalarType> autocast = {};
  bool operator==(const Mode&) const = default;
  static Mode now(c10::DeviceType device);
  /// The thread is in it.
  bool is_now(c10::DeviceType device) const;
};

/// Until it ends, the thread is in another mode.
class [[nodiscard]] ModeScope {
 public:
  ModeScope(const Mode& mode, c10::DeviceType device);
  ~ModeScope();
  ModeScope(const ModeScope&) = delete;
  ModeScope& operator=(const ModeScope&) = delete;

 private:
  c10::DeviceType device_;
  c10::impl::LocalDispatchKeySet keys_;
  bool grad_, inference_;
  at::ScalarType autocast_;
};

/// How the Accelerator runs autograd.
struct PassOptions {
  bool retain_graph = false;
  bool create_graph = false;
  std::vector<GradientSync> sync = {};  ///< of each prepared model
  bool operator==(const PassOptions&) const = default;
};

/// A parameter that a backward pass gives a gradient, which is one entry as a whole.
struct Leaf {
  at::Tensor parameter;
  Ref before, after;  ///< its gradient
  size_t hooks = 0;
};

struct Entry {
  enum class Kind : uint8_t {
    kOperator,
    kBackward,
    kRead,  ///< the host learns something of the device, or something else goes on that waits for it
    kHost,  ///< on the host alone
    kFeed,  ///< from the host to the device
  };
  Kind kind = Kind::kOperator;
  std::string name;
  std::optional<c10::OperatorHandle> op;  ///< none: `kBackward`, and a `kRead` that is no operator
  Mode mode;
  std::vector<Argument> arguments, results;
  std::vector<int32_t> made_differentiable;  ///< values that were there: by writing into them
  bool draws = true;  ///< random numbers, as far as can be told, or what is before it is launched
  Ref root;           ///< of kBackward
  PassOptions pass;
  std::vector<Leaf> leaves;
};

/// Equal where a captured operator cannot tell them apart; neither holds tensors. A NaN equals a NaN.
bool same_constant(const c10::IValue& a, const c10::IValue& b);

/// What `value` is but for its tensors, which `ref_of` names.
Argument argument_of(const c10::IValue& value, const std::function<Ref(const at::Tensor&)>& ref_of);

/// What of LibTorch's settings of the process decides which kernels operators call.
uint64_t kernel_settings();

/// The parameters that autograd reaches from `root`, and why that pass cannot be repeated; empty: it can.
std::string find_leaves(const at::Tensor& root, std::vector<Leaf>& leaves);

/// How many functions autograd calls when it has a gradient of `parameter`.
size_t hooks_of(const at::Tensor& parameter);

}  // namespace accelerate::internal
