#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "accelerate/optim/update.h"

namespace torch::optim {
class OptimizerParamGroup;
}

namespace accelerate::internal {

/// A step through LibTorch's fused kernels. They walk raw memory and check nothing, so every tensor is looked at first:
/// a step is either fused for all parameters or the optimizer's own.
class FusedUpdate : public Update {
 public:
  explicit FusedUpdate(torch::optim::Optimizer& optimizer) : optimizer_(optimizer) {}
  void step() final;

 protected:
  /// Makes state that the optimizer itself makes before its first step and nowhere else.
  virtual void start_state() {}
  /// Whether the kernel takes the state that `parameter` has, if it has some.
  virtual bool takes_state(const torch::optim::OptimizerParamGroup& group, const at::Tensor& parameter) const = 0;
  /// Makes the state that `step_group` needs and does not make itself after the last thing that can fail.
  virtual void make_states(torch::optim::OptimizerParamGroup&) {}
  /// Updates the group's parameters that have a gradient.
  virtual void step_group(torch::optim::OptimizerParamGroup& group) = 0;

  /// True when the kernels read `other` (a gradient or state) beside `parameter` correctly: a short one would be read
  /// out of bounds, other strides would mix up elements silently.
  static bool fits_beside(const at::Tensor& parameter, const at::Tensor& other);

  /// Device and dtype, which all tensors of one kernel call share.
  using Kind = std::tuple<c10::DeviceType, c10::DeviceIndex, at::ScalarType>;
  static Kind kind_of(const at::Tensor& parameter) {
    return {parameter.device().type(), parameter.device().index(), parameter.scalar_type()};
  }

  torch::optim::Optimizer& optimizer_;

 private:
  bool takes_everything() const;
};

}  // namespace accelerate::internal
