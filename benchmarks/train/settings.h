#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace benchmark_train {

/// Who writes the step.
enum class Loop {
  kPrepared,    ///< a user of the library
  kPlain,       ///< by hand, eager
  kPlainGraph,  ///< by hand, the whole step as one CUDA graph
};

/// What one run does; benchmarks/peer/train.py takes the same flags.
struct Settings {
  std::string task;  ///< an entry of the table in tasks.cpp
  Loop loop = Loop::kPrepared;
  int64_t batch_size = 64;
  int64_t length = 0;               ///< tokens in a sample, of tasks that have some
  bool tiny = false;                ///< few narrow layers, for tests on a CPU
  std::string precision = "no";     ///< of the prepared loop any, by hand "no" and "bf16"
  std::optional<double> dropout{};  ///< instead of the task's
  bool fused_loss = false;          ///< language models call accelerate's cross_entropy instead of LibTorch's
  std::string comm_hook = "no";     ///< how the gradients of the prepared loop travel
  double bucket_cap_mb = 25;        ///< of gradients that travel together
  bool bucket_view = false;         ///< gradients live in the buckets
  bool clip = true;                 ///< gradients at a norm of kMaxNorm; by hand always
  int64_t workers = 0;              ///< threads of the prepared loop that make batches
  bool cuda_graph = false;          ///< the prepared loop asks for its graph
  int64_t steps = 600;              ///< measured, in kWindows windows
  int64_t warmup = 100;             ///< steps before the first window
  int64_t losses = 1;               ///< so many of the first steps have their loss read and printed
  std::string profile;              ///< folder for a trace of kProfiledSteps more steps of the prepared loop; or none
  int64_t seed = 0;
  std::string backend;                  ///< between the processes of the prepared loop; empty: the one it would choose
  bool shuffle = true;                  ///< false: batches in the order of the data, so that losses can be compared
  std::optional<int64_t> started_at{};  ///< when the process was started, nanoseconds of the system clock
};

constexpr int64_t kWindows = 6;
constexpr int64_t kHostSteps = 24;     ///< after the windows, to time the host alone
constexpr int64_t kCapturedSteps = 6;  ///< after so many a graph has been captured and launched
constexpr int64_t kProfiledSteps = 3;
constexpr double kMaxNorm = 1.0;

}  // namespace benchmark_train
