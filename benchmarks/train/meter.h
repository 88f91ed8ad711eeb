#pragma once

#include <torch/torch.h>

#include <vector>

#include "benchmarks/train/settings.h"

namespace benchmark_train {

/// Times the steps of a loop from the outside, the same way for every loop.
class Meter {
 public:
  explicit Meter(const Settings& settings) : settings_(settings) {}

  /// To be called after each step with its loss, which is read at the first and the last one only. True: stop.
  bool step(const at::Tensor& loss);

  double median_ms() const;
  double min_ms() const;
  double loss_first() const { return loss_first_; }
  double loss_last() const { return loss_last_; }
  double first_step_s() const { return first_step_s_; }

 private:
  const Settings settings_;
  int64_t steps_ = 0;
  double window_start_ = 0, loss_first_ = 0, loss_last_ = 0, first_step_s_ = 0;
  std::vector<double> windows_ms_;  // milliseconds a step
};

/// Highest resident memory of this process so far, in MB of 1e6 bytes.
double peak_rss_mb();

}  // namespace benchmark_train
