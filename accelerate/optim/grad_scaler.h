#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "accelerate/tensor/state.h"

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
  at::Tensor found_;        ///< [1], float32: 1 if an update since the last pass was not finite
  bool unsettled_ = false;  ///< there was one
  std::vector<std::weak_ptr<internal::ScaledGradients>> members_;
  std::shared_ptr<void> parted_ = std::make_shared<char>();
};

namespace internal {
/// Throws ConfigError for options out of their ranges.
void check(const GradScalerKwargs& options);
}  // namespace internal

}  // namespace accelerate
