#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "accelerate/profile/kwargs.h"
#include "accelerate/profile/trace.h"

namespace torch::autograd::profiler {
struct ProfilerResult;
}

namespace accelerate::internal {

enum class Activity { kCpu, kCuda };

/// Kineto, LibTorch's recorder, of which a process has one: one object of this class exists at a time.
/// Used by one thread; what it records is that thread's work, autograd's for it, and the GPUs'.
class Kineto {
 public:
  /// Throws UsageError while another one exists or the host program records by itself.
  Kineto(const ProfileKwargs& options, std::set<Activity> activities);
  /// Ends a recording that is under way and throws it away.
  ~Kineto();
  Kineto(const Kineto&) = delete;
  Kineto& operator=(const Kineto&) = delete;

  /// Before `start`: gets ready, which takes time that should not be recorded.
  void prepare();
  void start();
  bool recording() const { return recording_; }
  /// A line in the trace's metadata: a key, and JSON.
  void describe(const std::string& key, const std::string& json);
  /// Waits for the GPUs that are recorded, and ends the recording.
  std::shared_ptr<torch::autograd::profiler::ProfilerResult> stop();

 private:
  struct Config;
  std::unique_ptr<Config> config_;
  bool recording_ = false;
};

Trace trace_of(const torch::autograd::profiler::ProfilerResult& result, EventList::Recorded recorded);

/// Kineto gives a trace away once. Writes JSON for chrome://tracing to `path`, whole or not at all; throws DataError
/// when that fails.
void write_chrome_trace(torch::autograd::profiler::ProfilerResult& result, const std::string& path);

}  // namespace accelerate::internal
