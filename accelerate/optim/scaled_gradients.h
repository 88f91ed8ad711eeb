#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <utility>
#include <vector>

#include "accelerate/optim/grad_scaler.h"

namespace torch::optim {
class Optimizer;
}

namespace accelerate::internal {

/// The gradients of one optimizer, which carry the scale from `backward` until they are looked at. Before each pass of
/// autograd every gradient that is there carries the scale of that pass: what was unscaled and not dropped is scaled
/// again, so that sums are sums of one unit whatever the order of verbs and optimizers.
class ScaledGradients {
 public:
  /// Known to `scaler` as long as it lives. The optimizer is borrowed.
  static std::shared_ptr<ScaledGradients> of(std::shared_ptr<GradScaler> scaler, torch::optim::Optimizer& optimizer);

  /// Divides what carries the scale by it, and notes what is not finite; nothing the second time. Throws UsageError for
  /// float16 gradients, which have no room for the scale.
  void unscale();
  /// Counts an update: true if every gradient was finite and it is to be applied. Waits for the device.
  bool admits_update();
  /// There are none any more.
  void dropped();

 private:
  friend class accelerate::GradScaler;
  ScaledGradients(std::shared_ptr<GradScaler> scaler, torch::optim::Optimizer& optimizer)
      : scaler_(std::move(scaler)), optimizer_(optimizer) {}
  std::vector<std::vector<at::Tensor>> gradients() const;
  void carry(const at::Tensor& scale);
  void rescale(const at::Tensor& factor);

  std::shared_ptr<GradScaler> scaler_;
  torch::optim::Optimizer& optimizer_;
  enum class Unit {
    kNothing,  ///< no gradient since they were dropped that autograd has not been told of
    kScaled,
    kTrue,
  };
  Unit unit_ = Unit::kNothing;
  at::Tensor found_;  ///< [1], float32; undefined: nothing was looked at
};

}  // namespace accelerate::internal
