#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace accelerate {

/// Everything that was recorded under one name. Times are microseconds, memory bytes; "self" leaves out what other
/// recorded operators did inside. Source: `torch.autograd.profiler_util.FunctionEventAvg`.
struct EventAverage {
  std::string key;            ///< "aten::mm"
  int64_t count = 0;          ///< number of calls
  double cpu_time_total = 0;  ///< 0 for what ran on a device
  double self_cpu_time_total = 0;
  double device_time_total = 0;  ///< of the kernels that it started, or was
  double self_device_time_total = 0;
  int64_t cpu_memory_usage = 0;  ///< allocated less freed; with `profile_memory`
  int64_t self_cpu_memory_usage = 0;
  int64_t device_memory_usage = 0;
  int64_t self_device_memory_usage = 0;
  int64_t flops = 0;              ///< estimated; with `with_flops`
  std::string input_shapes = {};  ///< "[[2, 3], []]"; with `group_by_input_shape`
  c10::DeviceType device_type = c10::kCPU;
  bool is_async = false;  ///< began and ended on different threads
  bool is_user_annotation = false;

  double cpu_time() const { return count == 0 ? 0 : cpu_time_total / static_cast<double>(count); }
  double device_time() const { return count == 0 ? 0 : device_time_total / static_cast<double>(count); }
};

struct TableOptions {
  std::string sort_by = {};    ///< a field of EventAverage, also with `cuda` for `device`; empty: as first called
  int64_t row_limit = 100;     ///< negative: all
  std::string header = {};     ///< a line above
  std::string time_unit = {};  ///< "s", "ms", "us"; empty: what fits each number
  int64_t max_name_column_width = 55;    ///< longer names end with "..."
  int64_t max_shapes_column_width = 80;  ///< longer shapes are cut
};

/// What `profiler.key_averages()` gives. Source: `torch.autograd.profiler_util.EventList`.
class EventList {
 public:
  /// What the list was recorded with, which decides about columns.
  struct Recorded {
    std::string device = {};  ///< "CUDA", or empty: of this kind of device there are columns of times
    bool memory = false;
    bool flops = false;
  };
  EventList() = default;
  EventList(std::vector<EventAverage> events, Recorded recorded)
      : events_(std::move(events)), recorded_(std::move(recorded)) {}

  size_t size() const { return events_.size(); }
  bool empty() const { return events_.empty(); }
  auto begin() const { return events_.begin(); }
  auto end() const { return events_.end(); }
  const EventAverage& operator[](size_t i) const { return events_[i]; }
  /// Microseconds of all together.
  double self_cpu_time_total() const;

  /// The original's table, letter for letter: one line for each name, the totals below. Throws UsageError for an
  /// unknown `sort_by` or `time_unit`.
  std::string table(const TableOptions& options = {}) const;

 private:
  std::vector<EventAverage> events_;
  Recorded recorded_;
};

}  // namespace accelerate
