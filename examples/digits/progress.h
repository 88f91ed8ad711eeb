#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace digits {

/// How far training is, on standard output: a bar that redraws itself on a terminal, one line an epoch elsewhere.
class Progress {
 public:
  /// `visible` false: says nothing (every process but the main one).
  Progress(int64_t epochs, int64_t steps_per_epoch, bool visible);

  /// Counts one step. True when the bar is due, at most 20 times a second: only then read a loss and call draw.
  bool advance();
  void draw(double loss, double learning_rate);
  /// Ends an epoch with a line that stays.
  void finish_epoch(double loss, double learning_rate, double accuracy);

 private:
  const int64_t epochs_, steps_per_epoch_;
  const bool visible_, bar_;
  int64_t steps_ = 0;
  std::chrono::steady_clock::time_point drawn_{};
};

}  // namespace digits
