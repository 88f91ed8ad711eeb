#include "accelerate/profile/event_list.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

constexpr double kUsInMs = 1e3, kUsInSecond = 1e6;
constexpr size_t kColumnWidth = 12;

std::string fixed(double value, int decimals) {
  std::array<char, 400> text{};  // the longest double has 309 digits before the point
  const int length = std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return {text.data(), static_cast<size_t>(length)};
}

std::string time_text(double us, const std::string& unit) {
  if (unit == "s" || (unit.empty() && us >= kUsInSecond)) return fixed(us / kUsInSecond, 3) + "s";
  if (unit == "ms" || (unit.empty() && us >= kUsInMs)) return fixed(us / kUsInMs, 3) + "ms";
  return fixed(us, 3) + "us";
}

std::string share_text(double us, double total) { return total == 0 ? "NaN" : fixed(us * 100 / total, 2) + "%"; }

std::string memory_text(int64_t bytes) {
  constexpr double kKb = 1024, kMb = 1024 * kKb, kGb = 1024 * kMb;
  const auto value = static_cast<double>(bytes);
  if (std::abs(value) >= kGb) return fixed(value / kGb, 2) + " GB";
  if (std::abs(value) >= kMb) return fixed(value / kMb, 2) + " MB";
  if (std::abs(value) >= kKb) return fixed(value / kKb, 2) + " KB";
  return std::to_string(bytes) + " B";
}

using Order = std::function<double(const EventAverage&)>;

const std::map<std::string, Order>& orders() {
  static const std::map<std::string, Order> known = {
      {"count", [](const EventAverage& event) { return static_cast<double>(event.count); }},
      {"cpu_memory_usage", [](const EventAverage& event) { return static_cast<double>(event.cpu_memory_usage); }},
      {"cpu_time", [](const EventAverage& event) { return event.cpu_time(); }},
      {"cpu_time_total", [](const EventAverage& event) { return event.cpu_time_total; }},
      {"device_memory_usage", [](const EventAverage& event) { return static_cast<double>(event.device_memory_usage); }},
      {"device_time", [](const EventAverage& event) { return event.device_time(); }},
      {"device_time_total", [](const EventAverage& event) { return event.device_time_total; }},
      {"flops", [](const EventAverage& event) { return static_cast<double>(event.flops); }},
      {"self_cpu_memory_usage",
       [](const EventAverage& event) { return static_cast<double>(event.self_cpu_memory_usage); }},
      {"self_cpu_time_total", [](const EventAverage& event) { return event.self_cpu_time_total; }},
      {"self_device_memory_usage",
       [](const EventAverage& event) { return static_cast<double>(event.self_device_memory_usage); }},
      {"self_device_time_total", [](const EventAverage& event) { return event.self_device_time_total; }},
  };
  return known;
}

const Order& order_named(std::string name) {
  const std::string given = name;
  if (const size_t at = name.find("cuda"); at != std::string::npos) name.replace(at, 4, "device");
  if (const auto found = orders().find(name); found != orders().end()) return found->second;
  std::string known;
  for (const auto& [key, order] : orders()) known += (known.empty() ? "" : ", ") + key;
  throw UsageError({.place = "EventList::table",
                    .what = "The table cannot be sorted by this",
                    .got = ".sort_by = \"" + given + "\"",
                    .expected = "one of " + known,
                    .remedy = "Leave it empty for the order of the first calls"});
}

void check_unit(const std::string& unit) {
  if (unit.empty() || unit == "s" || unit == "ms" || unit == "us") return;
  throw UsageError({.place = "EventList::table",
                    .what = "The unit of time is not known",
                    .got = ".time_unit = \"" + unit + "\"",
                    .expected = "\"s\", \"ms\" or \"us\"",
                    .remedy = "Leave it empty for the unit that fits each number"});
}

/// Right-aligned cells of one width a column, two spaces after each.
class Columns {
 public:
  void add(std::string header, size_t width = kColumnWidth) {
    headers_.push_back(std::move(header));
    widths_.push_back(width);
  }
  std::string headers() const { return line(headers_); }
  std::string rule(char stroke) const {
    std::string out;
    for (const size_t width : widths_) out += std::string(width, stroke) + "  ";
    return out;
  }
  size_t length() const { return std::accumulate(widths_.begin(), widths_.end(), 2 * widths_.size()) - 2; }
  std::string line(const std::vector<std::string>& cells) const {
    std::string out;
    for (size_t i = 0; i < cells.size(); ++i) {
      out += std::string(widths_[i] > cells[i].size() ? widths_[i] - cells[i].size() : 0, ' ') + cells[i] + "  ";
    }
    return out + "\n";
  }

 private:
  std::vector<std::string> headers_;
  std::vector<size_t> widths_;
};

/// What holds for the whole table.
struct Sheet {
  explicit Sheet(const std::vector<EventAverage>& events, const EventList::Recorded& recorded) {
    for (const EventAverage& event : events) {
      device_time = device_time || event.self_device_time_total > 0;
      device_memory = device_memory || event.self_device_memory_usage > 0;
      shapes = shapes || (!event.input_shapes.empty() && event.input_shapes != "[]");
      name_width = std::max(name_width, event.key.size());
      shapes_width = std::max(shapes_width, event.input_shapes.size());
      cpu_us += event.self_cpu_time_total;
      if (event.device_type != c10::kCPU && !event.is_user_annotation) device_us += event.self_device_time_total;
      if (event.flops > 0 && (least_flops == 0 || event.flops < least_flops)) least_flops = event.flops;
    }
    device_time = device_time && !recorded.device.empty();
    device_memory = device_memory && recorded.memory && !recorded.device.empty();
    flops = recorded.flops && least_flops > 0;
  }
  bool device_time = false, device_memory = false, shapes = false, flops = false;
  size_t name_width = 0, shapes_width = 0;
  double cpu_us = 0, device_us = 0;
  int64_t least_flops = 0;
};

}  // namespace

double EventList::self_cpu_time_total() const {
  double total = 0;
  for (const EventAverage& event : events_) total += event.self_cpu_time_total;
  return total;
}

std::string EventList::table(const TableOptions& options) const {
  check_unit(options.time_unit);
  std::vector<EventAverage> events = events_;
  if (!options.sort_by.empty()) {
    const Order& order = order_named(options.sort_by);
    std::stable_sort(events.begin(), events.end(),
                     [&](const EventAverage& a, const EventAverage& b) { return order(a) > order(b); });
  }
  const Sheet sheet(events, recorded_);
  const auto most = [](int64_t width) { return static_cast<size_t>(std::max<int64_t>(width, 4)); };
  const size_t name_limit = most(options.max_name_column_width), shapes_limit = most(options.max_shapes_column_width);
  const size_t shapes_width = std::min(sheet.shapes_width + 4, shapes_limit);
  const auto time = [&](double us) { return time_text(us, options.time_unit); };

  Columns columns;
  columns.add("Name", std::min(sheet.name_width + 4, name_limit));
  for (const char* header : {"Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg"}) columns.add(header);
  const std::string& device = recorded_.device;
  if (sheet.device_time) {
    for (const auto& header : {"Self " + device, "Self " + device + " %", device + " total", device + " time avg"}) {
      columns.add(header);
    }
  }
  if (recorded_.memory) {
    columns.add("CPU Mem");
    columns.add("Self CPU Mem");
  }
  if (sheet.device_memory) {
    columns.add(device + " Mem");
    columns.add("Self " + device + " Mem");
  }
  columns.add("# of Calls");
  if (sheet.shapes) columns.add("Input Shapes", shapes_width);
  double flops_scale = 1;
  if (sheet.flops) {
    constexpr std::array<const char*, 6> kUnits{"FLOPs", "KFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"};
    const double thousands = std::log10(static_cast<double>(sheet.least_flops)) / 3;
    const auto unit = static_cast<size_t>(std::clamp(thousands, 0.0, 5.0));
    flops_scale = std::pow(10, -3.0 * static_cast<double>(unit));
    columns.add(std::string("Total ") + kUnits[unit]);
  }

  std::string out;
  if (!options.header.empty()) out += std::string(columns.length(), '=') + "\n" + options.header + "\n";
  out += columns.rule('-') + "\n" + columns.headers() + columns.rule('-') + "\n";
  int64_t rows = 0;
  for (const EventAverage& event : events) {
    if (rows++ == options.row_limit) break;
    const bool cut = event.key.size() >= name_limit - 3;
    std::vector<std::string> cells{cut ? event.key.substr(0, name_limit - 3) + "..." : event.key,
                                   share_text(event.self_cpu_time_total, sheet.cpu_us),
                                   time(event.self_cpu_time_total),
                                   event.is_async ? "0" : share_text(event.cpu_time_total, sheet.cpu_us),
                                   time(event.cpu_time_total),
                                   time(event.cpu_time())};
    const auto add = [&](std::string cell) { cells.push_back(std::move(cell)); };
    if (sheet.device_time) {
      add(time(event.self_device_time_total));
      add(share_text(event.self_device_time_total, sheet.device_us));
      add(time(event.device_time_total));
      add(time(event.device_time()));
    }
    if (recorded_.memory) {
      add(memory_text(event.cpu_memory_usage));
      add(memory_text(event.self_cpu_memory_usage));
    }
    if (sheet.device_memory) {
      add(memory_text(event.device_memory_usage));
      add(memory_text(event.self_device_memory_usage));
    }
    add(std::to_string(event.count));
    if (sheet.shapes) add(event.input_shapes.substr(0, shapes_width));
    if (sheet.flops) {
      const std::string number = fixed(static_cast<double>(event.flops) * flops_scale, 3);
      add(event.flops > 0 ? number : "--");
    }
    out += columns.line(cells);
  }
  out += columns.rule('-') + "\nSelf CPU time total: " + time(sheet.cpu_us) + "\n";
  if (sheet.device_time) out += "Self " + device + " time total: " + time(sheet.device_us) + "\n";
  return out;
}

}  // namespace accelerate
