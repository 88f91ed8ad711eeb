#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "accelerate/optim/device_counters.h"
#include "accelerate/optim/kernels/operators.h"
#include "accelerate/optim/update.h"
#include "accelerate/optim/wide_parameters.h"

namespace torch::optim {
class OptimizerParamGroup;
}

namespace accelerate::internal {

/// A step through fused kernels: LibTorch's on the CPU, ours where counts and rates are on the device. They walk raw
/// memory, so every tensor is looked at first: a step is either fused for all parameters or the optimizer's own.
class FusedUpdate : public Update {
 public:
  FusedUpdate(torch::optim::Optimizer& optimizer, UpdateOptions options)
      : optimizer_(optimizer), options_(std::move(options)), wide_(options_) {}
  void step() final { step_if({}); }
  bool takes_verdict(c10::Device device) const final;
  void step_if(const Verdict& verdict) final;
  void take_back() final;
  void upload_rates() final { rates_.upload(optimizer_); }
  bool rates_are_uploaded() const final { return rates_.are_those_of(optimizer_); }
  const at::Tensor* master_of(const at::Tensor& parameter) const final;

 protected:
  /// What all tensors of one kernel call share: device, dtype, and whether their gradients come last; those that do
  /// not are the lesser.
  using Kind = std::tuple<bool, c10::DeviceType, c10::DeviceIndex, at::ScalarType>;
  Kind kind_of(const at::Tensor& parameter) const {
    return {options_.comes_last && options_.comes_last(parameter), parameter.device().type(),
            parameter.device().index(), parameter.scalar_type()};
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
    return fits(parameter, state, state_dtype(parameter));
  }
  /// Of state that a kernel writes before it reads it.
  at::Tensor empty_state(const at::Tensor& parameter) const;
  at::Tensor zero_state(const at::Tensor& parameter) const { return empty_state(parameter).zero_(); }

  bool has_master(const at::Tensor& parameter) const { return has_operator() && wide_.has_master(parameter); }
  bool is_rounded(const at::Tensor& parameter) const { return has_operator() && wide_.is_rounded(parameter); }
  /// What the kernel updates: the parameter, or its master, which follows when somebody else has changed the parameter.
  const at::Tensor& updated(const at::Tensor& parameter) {
    return has_master(parameter) ? wide_.masters().of(parameter) : parameter;
  }
  /// By which parameters like this one are rounded stochastically; undefined: they are not.
  at::Tensor draws_for(const at::Tensor& parameter) {
    return is_rounded(parameter) ? wide_.draws_on(parameter.device()) : at::Tensor();
  }

  /// Whether what this parameter's kernel reads of rates and counts is on its device.
  bool on_device(const at::Tensor& parameter) const {
    return has_operator() &&
           (parameter.is_cuda() || options_.counters == Counters::kOnDevice || has_master(parameter) ||
            is_rounded(parameter) || library_is_wrong(parameter.scalar_type()));
  }
  /// The average that the kernel writes beside what it updates of `parameter`; undefined: none. Once in a step.
  at::Tensor average_of(const at::Tensor& parameter);
  /// What the operator takes of parameters of one kind. `l` has its lists.
  template <class OfOneCall>
  kernels::Lists lists_of(OfOneCall& l) {
    return {l.parameters, l.gradients, l.copies, draws_for(l.own().front()), following(l.followers)};
  }
  const at::Tensor& rate_of(const Group& group, c10::Device device);
  DeviceCounts& counts() { return counts_; }
  const Verdict& verdict() const { return verdict_; }

  torch::optim::Optimizer& optimizer_;

 private:
  bool takes_everything() const;
  kernels::Following following(std::vector<at::Tensor>& followers);
  void step_all(const Verdict& verdict);

  at::ScalarType state_dtype(const at::Tensor& parameter) const {
    return has_master(parameter) || is_rounded(parameter) ? at::kFloat : parameter.scalar_type();
  }
  static bool fits(const at::Tensor& parameter, const at::Tensor& other, at::ScalarType dtype);

  UpdateOptions options_;
  WideParameters wide_;
  DeviceRates rates_;
  DeviceCounts counts_;
  Verdict verdict_;
};

}  // namespace accelerate::internal
