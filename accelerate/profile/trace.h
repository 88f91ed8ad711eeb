#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "accelerate/profile/event_list.h"

namespace accelerate::internal {

/// One thing that took some time, as it was recorded. Times are nanoseconds.
struct TraceEvent {
  std::string name;
  int64_t start = 0, end = 0;
  uint64_t thread = 0;
  uint64_t id = 0;      ///< what a kernel that it started names as its `linked`
  uint64_t linked = 0;  ///< 0: an operator
  c10::DeviceType device = c10::kCPU;
  bool is_async = false;
  bool is_user_annotation = false;
  int64_t flops = 0;
  std::string input_shapes = {};
};

/// What was allocated, or freed as a negative number.
struct TraceMemory {
  int64_t at = 0;
  int64_t cpu_bytes = 0, device_bytes = 0;
};

/// One cycle of a profile.
struct Trace {
  std::vector<TraceEvent> events = {};
  std::vector<TraceMemory> memory = {};
  EventList::Recorded recorded = {};
};

/// Which of a trace's events are put into one line.
struct TraceGrouping {
  bool by_input_shape = false;
};

/// Sums by name. Operators lie inside those that called them: on one thread one interval inside the other. One alone
/// inside another of its name is the same call. Source: `_parse_kineto_results` and `EventList` of PyTorch's profiler.
EventList averages_of(const Trace& trace, TraceGrouping grouping);

}  // namespace accelerate::internal
