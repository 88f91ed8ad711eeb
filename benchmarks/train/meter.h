#pragma once

#include <torch/torch.h>

#include <optional>
#include <vector>

#include "benchmarks/train/settings.h"

namespace benchmark_train {

/// Times the steps of a loop from the outside, the same way for every loop: `warmup` steps, six windows of steps, then
/// kHostSteps steps that each start when the device has nothing to do.
class Meter {
 public:
  explicit Meter(const Settings& settings) : settings_(settings) {}

  /// To be called after each step with its loss, which is read at the first steps and the last one only. True: stop.
  bool step(const at::Tensor& loss);

  double median_ms() const;
  double min_ms() const;
  double host_ms() const;                                        ///< of a step, median, without waiting for the device
  const std::vector<double>& losses() const { return losses_; }  ///< of the first steps
  double loss_last() const { return loss_last_; }                ///< at the end of the windows
  double first_step_s() const { return first_step_s_; }          ///< from the start of the process
  double captured_step_s() const { return captured_step_s_; }    ///< likewise, to the end of step kCapturedSteps
  double peak_gpu_gb() const { return peak_gpu_gb_; }            ///< allocated, 1e9 bytes
  double reserved_gpu_gb() const { return reserved_gpu_gb_; }

 private:
  bool timed_alone(const at::Tensor& loss, double came);

  const Settings settings_;
  int64_t steps_ = 0;
  double window_start_ = 0, loss_last_ = 0, first_step_s_ = 0, captured_step_s_ = 0;
  double peak_gpu_gb_ = 0, reserved_gpu_gb_ = 0;
  std::vector<double> losses_, windows_ms_, host_ms_;  // milliseconds a step
  std::optional<double> alone_since_;
};

/// Highest resident memory of this process so far, in MB of 1e6 bytes.
double peak_rss_mb();

}  // namespace benchmark_train
