// The sums and tables of PyTorch's profiler, over invented recordings of nested operators, kernels and memory.
#include <gtest/gtest.h>

#include "accelerate/profile/trace.h"
#include "tests/parity/fixtures.h"

namespace parity {
namespace {

using accelerate::internal::Trace;

Trace trace_of(const Json& entry) {
  Trace trace;
  const Json& recorded = entry.at("recorded");
  trace.recorded = {.device = recorded.at("device"), .memory = recorded.at("memory"), .flops = recorded.at("flops")};
  for (const Json& event : entry.at("events")) {
    trace.events.push_back({.name = event.at(0),
                            .start = event.at(1),
                            .end = event.at(2),
                            .thread = event.at(3),
                            .id = event.at(4),
                            .linked = event.at(5),
                            .device = event.at(6) == 0 ? c10::kCPU : c10::kCUDA,
                            .is_async = event.at(7),
                            .is_user_annotation = event.at(8),
                            .flops = event.at(9),
                            .input_shapes = event.at(10)});
  }
  for (const Json& record : entry.at("memory")) {
    trace.memory.push_back({.at = record.at(0), .cpu_bytes = record.at(1), .device_bytes = record.at(2)});
  }
  return trace;
}

accelerate::TableOptions options_of(const Json& given) {
  accelerate::TableOptions options;
  options.sort_by = given.value("sort_by", "");
  options.row_limit = given.value("row_limit", options.row_limit);
  options.header = given.value("header", "");
  options.time_unit = given.value("time_unit", "");
  options.max_name_column_width = given.value("max_name_column_width", options.max_name_column_width);
  return options;
}

TEST(Profile, HasTheSumsAndTablesOfTheOriginal) {
  const Json fixture = read_fixture("profile.json");
  ASSERT_EQ(fixture.at("cases").size(), 5u);
  for (size_t number = 0; number < 5; ++number) {
    SCOPED_TRACE(number);
    const Json& entry = fixture.at("cases").at(number);
    const auto averages = accelerate::internal::averages_of(
        trace_of(entry), {.by_input_shape = entry.at("group_by_input_shape").get<bool>()});
    const Json& rows = entry.at("averages");
    ASSERT_EQ(averages.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      const accelerate::EventAverage& found = averages[i];
      const Json& row = rows.at(i);
      SCOPED_TRACE(row.dump());
      EXPECT_EQ(found.key, row.at(0).get<std::string>());
      EXPECT_EQ(found.count, row.at(1).get<int64_t>());
      const double times[] = {found.cpu_time_total, found.self_cpu_time_total, found.device_time_total,
                              found.self_device_time_total};
      // Nanoseconds are whole numbers; the original has them as fractions of microseconds.
      for (size_t k = 0; k < 4; ++k) EXPECT_NEAR(times[k], row.at(2 + k).get<double>(), 1e-6) << k;
      const int64_t counts[] = {found.cpu_memory_usage, found.self_cpu_memory_usage, found.device_memory_usage,
                                found.self_device_memory_usage, found.flops};
      for (size_t k = 0; k < 5; ++k) EXPECT_EQ(counts[k], row.at(6 + k).get<int64_t>()) << k;
    }
    for (const Json& table : entry.at("tables")) {
      EXPECT_EQ(averages.table(options_of(table.at("options"))), table.at("text").get<std::string>());
    }
  }
}

}  // namespace
}  // namespace parity
