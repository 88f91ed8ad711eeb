#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <unordered_map>

#include "accelerate/optim/device_counters.h"
#include "accelerate/optim/update.h"

namespace torch::optim {
class OptimizerParamGroup;
}

namespace accelerate::internal {

/// A step through fused kernels: LibTorch's on the CPU, ours where counts and rates are on the device. They walk raw
/// memory, so every tensor is looked at first: a step is either fused for all parameters or the optimizer's own.
class FusedUpdate : public Update {
 public:
  FusedUpdate(torch::optim::Optimizer& optimizer, UpdateOptions options) : optimizer_(optimizer), options_(options) {}
  void step() final { step_if({}); }
  bool takes_verdict(c10::Device device) const final;
  void step_if(const Verdict& verdict) final;
  void take_back() final;
  void upload_rates() final { rates_.upload(optimizer_); }
  bool rates_are_uploaded() const final { return rates_.are_those_of(optimizer_); }
  const at::Tensor* master_of(const at::Tensor& parameter) const final;

 protected:
  /// Device and dtype, which all tensors of one kernel call share.
  using Kind = std::tuple<c10::DeviceType, c10::DeviceIndex, at::ScalarType>;
  static Kind kind_of(const at::Tensor& parameter) {
    return {parameter.device().type(), parameter.device().index(), parameter.scalar_type()};
  }
  struct Group {
    torch::optim::OptimizerParamGroup& options;
    size_t index;
  };

  /// Whether there is an operator that reads rates and counts on the device.
  virtual bool has_operator() const { return true; }
  /// Whether LibTorch's kernel for the CPU computes something else.
  virtual bool library_is_wrong(at::ScalarType) const { return false; }
  /// Makes state that the optimizer itself makes before its first step and nowhere else.
  virtual void start_state() {}
  /// Whether the kernel takes the state that `parameter` has, if it has some.
  virtual bool takes_state(const torch::optim::OptimizerParamGroup& group, const at::Tensor& parameter) const = 0;
  /// Makes the state that `step_group` needs and does not make itself after the last thing that can fail.
  virtual void make_states(torch::optim::OptimizerParamGroup&) {}
  /// Updates the group's parameters that have a gradient, as `verdict()` says.
  virtual void step_group(const Group& group) = 0;
  /// The host's part of `take_back`.
  virtual void uncount() {}

  /// True when the kernels read `other` (a gradient or state) beside `parameter` correctly: a short one would be read
  /// out of bounds, other strides would mix up elements silently.
  static bool fits_beside(const at::Tensor& parameter, const at::Tensor& other) {
    return fits(parameter, other, parameter.scalar_type());
  }
  /// The same of state, which is of float32 where the parameter has a master.
  bool fits_state(const at::Tensor& parameter, const at::Tensor& state) const {
    return fits(parameter, state, has_master(parameter) ? at::kFloat : parameter.scalar_type());
  }

  bool has_master(const at::Tensor& parameter) const {
    const at::ScalarType dtype = parameter.scalar_type();
    return options_.masters == Masters::kFloat32 && has_operator() && (dtype == at::kBFloat16 || dtype == at::kHalf);
  }
  /// What the kernel updates: the parameter, or its master, which is made anew when somebody else has changed the
  /// parameter.
  const at::Tensor& updated(const at::Tensor& parameter);

  /// Whether what this parameter's kernel reads of rates and counts is on its device.
  bool on_device(const at::Tensor& parameter) const {
    return has_operator() && (parameter.is_cuda() || options_.counters == Counters::kOnDevice ||
                              has_master(parameter) || library_is_wrong(parameter.scalar_type()));
  }
  const at::Tensor& rate_of(const Group& group, c10::Device device);
  DeviceCounts& counts() { return counts_; }
  const Verdict& verdict() const { return verdict_; }

  torch::optim::Optimizer& optimizer_;

 private:
  bool takes_everything() const;

  static bool fits(const at::Tensor& parameter, const at::Tensor& other, at::ScalarType dtype);

  /// Of the parameter as it was when it was written last.
  struct Master {
    at::Tensor tensor;
    uint32_t version;
    const void* memory;
  };

  UpdateOptions options_;
  std::unordered_map<const void*, Master> masters_;
  DeviceRates rates_;
  DeviceCounts counts_;
  Verdict verdict_;
};

}  // namespace accelerate::internal
