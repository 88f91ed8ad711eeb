#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "accelerate/tensor/state.h"

namespace torch::optim {
class Optimizer;
}

namespace accelerate {

/// How the loss of fp16 is scaled. Source: `accelerate.utils.GradScalerKwargs`.
struct GradScalerKwargs {
  double init_scale = 65536;       ///< the first factor of the loss, finite and more than 0
  double growth_factor = 2;        ///< of the scale after `growth_interval` updates in a row, more than 1
  double backoff_factor = 0.5;     ///< of the scale after an update that was left out, more than 0 and less than 1
  int64_t growth_interval = 2000;  ///< 1 or more
  bool enabled = true;             ///< false: losses are not scaled, and every update is applied
};

namespace internal {
class ScaledGradients;
}

/// The factor of the losses of fp16, which keeps small gradients from becoming zero. It shrinks after an update whose
/// gradients were not finite, which is left out, and grows after many that were applied. All optimizers of one
/// Accelerator share it: however many of them step between two backward passes, that is one update of the scale.
/// Its tensors live on the device, and `accelerator.backward` does not wait for it.
/// Source: `torch.amp.GradScaler`.
class GradScaler final : public Stateful {
 public:
  /// Throws ConfigError for options out of their ranges.
  GradScaler(GradScalerKwargs options, c10::Device device);

  bool is_enabled() const { return options_.enabled; }
  /// The factor of the next loss; 1 if not enabled. Waits for the device.
  double get_scale() const;
  /// How many updates in a row were applied since the scale changed. Waits for the device.
  int64_t get_growth_tracker() const;
  double get_growth_factor() const { return options_.growth_factor; }
  double get_backoff_factor() const { return options_.backoff_factor; }
  int64_t get_growth_interval() const { return options_.growth_interval; }

  /// `loss` times the scale, in its dtype.
  at::Tensor scale(const at::Tensor& loss);

  /// `scale` and `_growth_tracker`, the names of the original's state.
  void save(StateWriter& writer) const override;
  void load(StateReader& reader) override;
  /// For what makes the scales of several processes equal again: as long as the token is kept, processes may update on
  /// their own, each with its own scale; `tensors` are those of this process.
  std::shared_ptr<void> part() { return parted_; }
  bool may_part() const { return parted_.use_count() > 1; }
  std::vector<at::Tensor> tensors();

 private:
  friend class internal::ScaledGradients;
  struct Numbers {
    at::Tensor scale;           ///< 0-d, float32
    at::Tensor growth_tracker;  ///< 0-d, int32
  };
  /// As they are once the updates made so far count.
  Numbers settled() const;
  void settle();

  GradScalerKwargs options_;
  Numbers numbers_;
  at::Tensor found_;  ///< [1], float32: 1 if an update since the last pass was not finite; undefined: there was none
  std::vector<std::weak_ptr<internal::ScaledGradients>> members_;
  std::shared_ptr<void> parted_ = std::make_shared<char>();
};

namespace internal {

/// Throws ConfigError for options out of their ranges.
void check(const GradScalerKwargs& options);

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

}  // namespace internal
}  // namespace accelerate
