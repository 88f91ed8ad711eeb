#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace benchmark_train {

/// What one run does; benchmarks/peer/train.py takes the same flags.
struct Settings {
  std::string task;  ///< mlp, conv or digits
  int64_t batch_size = 64;
  int64_t steps = 600;   ///< measured, in kWindows windows
  int64_t warmup = 100;  ///< steps before the first window
  int64_t seed = 0;
  std::string backend;                  ///< between the processes of the prepared loop; empty: the one it would choose
  bool shuffle = true;                  ///< false: batches in the order of the data, so that losses can be compared
  std::optional<int64_t> started_at{};  ///< when the process was started, nanoseconds of the system clock
};

constexpr int64_t kWindows = 6;
constexpr double kLearningRate = 1e-3, kMaxNorm = 1.0;

}  // namespace benchmark_train
