#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>

#include "accelerate/optim/master_weights.h"
#include "accelerate/optim/update.h"

namespace accelerate::internal {

/// How an optimizer's parameters of 16 bits are updated in float32: through masters, or rounded stochastically.
class WideParameters {
 public:
  explicit WideParameters(UpdateOptions options);
  static bool are_wanted(const UpdateOptions& options) {
    return options.masters == Masters::kFloat32 || options.rounding_seed.has_value();
  }

  bool has_master(const at::Tensor& parameter) const;
  bool is_rounded(const at::Tensor& parameter) const {
    return options_.rounding_seed && options_.masters == Masters::kNone && parameter.scalar_type() == at::kBFloat16;
  }
  bool has_some(const torch::optim::Optimizer& optimizer) const;

  MasterWeights& masters() const { return *masters_; }
  const at::Tensor* master_of(const at::Tensor& parameter) const {
    return masters_ ? masters_->find(parameter) : nullptr;
  }
  /// {seed, number of draws}, int64, of the parameters on `device`; whoever draws counts on.
  const at::Tensor& draws_on(c10::Device device);

  /// `step` sees the optimizer's parameters of 16 bits, and their gradients, in float32: the same tensors with the
  /// masters' memory, or with what is rounded afterwards. Also when it throws, they are of 16 bits again, and as far as
  /// it came. Without such parameters it is just called.
  void run(torch::optim::Optimizer& optimizer, const std::function<void()>& step);

 private:
  UpdateOptions options_;
  std::shared_ptr<MasterWeights> masters_;  ///< null: there are none
  std::map<std::pair<c10::DeviceType, c10::DeviceIndex>, at::Tensor> draws_;
};

}  // namespace accelerate::internal
