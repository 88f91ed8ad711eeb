#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "accelerate/comm/group.h"
#include "accelerate/core/log.h"
#include "accelerate/profile/event_list.h"
#include "accelerate/profile/kwargs.h"

namespace accelerate {

namespace internal {

/// Where a profile is taken.
struct ProfilePlace {
  Group group;
  Log log;
  int64_t cuda_devices = 0;  ///< GPUs that the process sees
};

}  // namespace internal

/// Which recorded calls `key_averages` puts into one line, besides those of one name.
struct KeyAveragesOptions {
  bool group_by_input_shape = false;  ///< only with equal shapes; needs `record_shapes`
};

/// The guard of `accelerator.profile()`: what this thread does is recorded until it ends. A process has one at a time.
/// It ends with `finish()`, which tells what goes wrong by throwing, or with its scope, which writes that to the log.
/// When an exception ends its scope, nothing is written and `on_trace_ready` is not called.
/// Used by the thread that made it. Source: `Accelerator.profile`, `torch.profiler.profile`.
class [[nodiscard("keep the guard: `auto profiler = accelerator.profile();`")]] Profiler {
 public:
  /// Throws ConfigError for an unknown activity or schedule, UsageError while another one exists.
  Profiler(ProfileKwargs options, internal::ProfilePlace place);
  ~Profiler();
  Profiler(Profiler &&) noexcept;
  Profiler& operator=(Profiler&&) = delete;

  /// The next step begins. At the end of a cycle of the schedule `on_trace_ready` is called, and throws what it throws.
  void step();
  /// Steps so far.
  int64_t step_num() const;

  /// Ends the recording, calls `on_trace_ready` for a cycle that was under way, writes `profile_<process_index>.json`
  /// into `output_trace_dir`, if there is one, and waits for the other processes then, which all have to come here.
  /// Afterwards `key_averages` and `export_chrome_trace` go on working. A second call does nothing. Throws DataError
  /// when the file cannot be written.
  void finish();

  /// Sums by operator over the last cycle that has ended. Throws UsageError before there is one.
  EventList key_averages(KeyAveragesOptions options = {}) const;
  /// Writes the last cycle that has ended as JSON for chrome://tracing or Perfetto, whole or not at all, into folders
  /// that it creates. Throws UsageError before there is one, DataError when the file cannot be written.
  void export_chrome_trace(const std::string& path) const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace accelerate
