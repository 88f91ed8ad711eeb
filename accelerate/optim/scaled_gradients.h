#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "accelerate/optim/grad_scaler.h"
#include "accelerate/optim/update.h"

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
  bool has_scale() const { return scaler_->is_enabled(); }
  c10::Device device() const { return scaler_->numbers_.scale.device(); }
  /// `unscale()` and a clip at this 2-norm, if the gradients of `parameters` are exactly those that carry the scale, of
  /// one kind: one pass that reads them and one that writes. Returns the norm; nothing, and does nothing, otherwise.
  std::optional<at::Tensor> clip(const std::vector<at::Tensor>& parameters, double max_norm);
  /// Counts an update: true if every gradient was finite and it is to be applied. Waits for the device.
  bool admits_update();
  /// What an update is to do with the gradients as they are, if there are some; on `device()`. Without `skip` they were
  /// looked at by an update before. Waits for nothing. Throws like `unscale()`.
  Verdict verdict();
  /// Counts an update that did it.
  void updated(const Verdict& verdict);
  /// There are none any more.
  void dropped();

 private:
  friend class accelerate::GradScaler;
  ScaledGradients(std::shared_ptr<GradScaler> scaler, torch::optim::Optimizer& optimizer)
      : scaler_(std::move(scaler)), optimizer_(optimizer) {}
  std::vector<std::vector<at::Tensor>> gradients() const;
  void carry(const at::Tensor& scale);
  void rescale(const at::Tensor& factor);
  static void require_room(const std::vector<std::vector<at::Tensor>>& kinds);
  at::Tensor inverse_scale() const;
  void count(const at::Tensor& found);

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
