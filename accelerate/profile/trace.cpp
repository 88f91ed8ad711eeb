#include "accelerate/profile/trace.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <tuple>
#include <unordered_map>

namespace accelerate::internal {
namespace {

constexpr double kNsInUs = 1e3;
constexpr size_t kNone = static_cast<size_t>(-1);

/// An event with its place among the others.
struct Node {
  TraceEvent event;
  size_t parent = kNone;
  std::vector<size_t> children = {};
  int64_t kernels = 0;  ///< nanoseconds of those it started itself
  int64_t cpu_bytes = 0, device_bytes = 0;
  bool removed = false;
};

/// What came and went, by time.
class MemoryTimeline {
 public:
  explicit MemoryTimeline(std::vector<TraceMemory> records) : records_(std::move(records)), inside_(records_.size()) {
    std::stable_sort(records_.begin(), records_.end(),
                     [](const TraceMemory& a, const TraceMemory& b) { return a.at < b.at; });
    cpu_.assign(records_.size() + 1, 0);
    device_.assign(records_.size() + 1, 0);
    for (size_t i = 0; i < records_.size(); ++i) {
      cpu_[i + 1] = cpu_[i] + records_[i].cpu_bytes;
      device_[i + 1] = device_[i] + records_[i].device_bytes;
    }
  }
  /// Gives `node` what fell into its time.
  void charge(Node& node) {
    const auto before = [](const TraceMemory& record, int64_t at) { return record.at < at; };
    const auto after = [](int64_t at, const TraceMemory& record) { return at < record.at; };
    const auto first = std::lower_bound(records_.begin(), records_.end(), node.event.start, before);
    const auto last = std::upper_bound(records_.begin(), records_.end(), node.event.end, after);
    if (first >= last) return;
    const auto from = static_cast<size_t>(first - records_.begin()), to = static_cast<size_t>(last - records_.begin());
    node.cpu_bytes = cpu_[to] - cpu_[from];
    node.device_bytes = device_[to] - device_[from];
    std::fill(inside_.begin() + static_cast<std::ptrdiff_t>(from), inside_.begin() + static_cast<std::ptrdiff_t>(to),
              true);
  }
  /// Those outside every event, as events without a duration.
  std::vector<Node> outside() const {
    std::vector<Node> nodes;
    for (size_t i = 0; i < records_.size(); ++i) {
      if (inside_[i]) continue;
      Node node{.event = {.name = "[memory]", .start = records_[i].at, .end = records_[i].at, .input_shapes = "[]"}};
      node.cpu_bytes = records_[i].cpu_bytes;
      node.device_bytes = records_[i].device_bytes;
      nodes.push_back(std::move(node));
    }
    return nodes;
  }

 private:
  std::vector<TraceMemory> records_;
  std::vector<bool> inside_;
  std::vector<int64_t> cpu_, device_;
};

bool on_host(const TraceEvent& event) { return event.device == c10::kCPU; }

/// Kernels go to the operator that started them; what the host did for them counts as done on its thread.
void link_kernels(std::vector<Node>& nodes) {
  std::unordered_map<uint64_t, size_t> operators;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const TraceEvent& event = nodes[i].event;
    if (event.linked == 0 && on_host(event) && !event.is_async) operators.emplace(event.id, i);
  }
  for (Node& node : nodes) {
    if (node.event.linked == 0) continue;
    const auto found = operators.find(node.event.linked);
    if (found == operators.end()) continue;
    if (on_host(node.event)) {
      node.event.thread = nodes[found->second].event.thread;
    } else {
      nodes[found->second].kernels += node.event.end - node.event.start;
    }
  }
}

void find_parents(std::vector<Node>& nodes) {
  std::map<uint64_t, std::vector<size_t>> open;  // by thread; each lies inside the one before
  for (size_t i = 0; i < nodes.size(); ++i) {
    const TraceEvent& event = nodes[i].event;
    if (event.is_async || !on_host(event)) continue;
    std::vector<size_t>& around = open[event.thread];
    while (!around.empty()) {
      const TraceEvent& parent = nodes[around.back()].event;
      if (event.start < parent.end && event.end <= parent.end) {
        nodes[around.back()].children.push_back(i);
        nodes[i].parent = around.back();
        break;
      }
      around.pop_back();
    }
    around.push_back(i);
  }
}

/// An operator that calls itself once (a wrapper and what it wraps) is one call.
void merge_wrappers(std::vector<Node>& nodes) {
  for (bool merged = true; merged;) {
    merged = false;
    for (Node& node : nodes) {
      if (node.removed || node.parent == kNone) continue;
      Node& parent = nodes[node.parent];
      if (parent.event.name != node.event.name || parent.children.size() != 1) continue;
      parent.children = node.children;
      parent.kernels = node.kernels;
      for (const size_t child : parent.children) nodes[child].parent = node.parent;
      node.removed = true;
      merged = true;
    }
  }
}

/// Nanoseconds on a device, its own and those of what it called. Children come after their parents.
std::vector<int64_t> device_totals(const std::vector<Node>& nodes) {
  std::vector<int64_t> totals(nodes.size(), 0);
  for (size_t i = nodes.size(); i-- > 0;) {
    const TraceEvent& event = nodes[i].event;
    if (nodes[i].removed || event.is_async) continue;
    totals[i] += on_host(event) ? nodes[i].kernels : event.end - event.start;
    if (on_host(event) && nodes[i].parent != kNone) totals[nodes[i].parent] += totals[i];
  }
  return totals;
}

std::vector<Node> nodes_of(const Trace& trace) {
  std::vector<Node> nodes;
  nodes.reserve(trace.events.size());
  MemoryTimeline memory(trace.memory);
  for (const TraceEvent& event : trace.events) {
    nodes.push_back({.event = event});
    if (on_host(event)) memory.charge(nodes.back());
  }
  link_kernels(nodes);
  for (Node& node : memory.outside()) nodes.push_back(std::move(node));
  std::stable_sort(nodes.begin(), nodes.end(), [](const Node& a, const Node& b) {
    return std::tuple(a.event.start, -a.event.end) < std::tuple(b.event.start, -b.event.end);
  });
  return nodes;
}

}  // namespace

EventList averages_of(const Trace& trace, TraceGrouping grouping) {
  std::vector<Node> nodes = nodes_of(trace);
  find_parents(nodes);
  merge_wrappers(nodes);
  const bool has_device = !trace.recorded.device.empty();
  const std::vector<int64_t> device_ns = has_device ? device_totals(nodes) : std::vector<int64_t>(nodes.size(), 0);

  std::map<std::tuple<std::string, c10::DeviceType, bool, std::string>, size_t> places;
  std::vector<EventAverage> rows;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    if (node.removed) continue;
    const TraceEvent& event = node.event;
    const std::string shapes = grouping.by_input_shape ? event.input_shapes : std::string();
    const auto [place, fresh] =
        places.emplace(std::tuple(event.name, event.device, event.is_user_annotation, shapes), rows.size());
    if (fresh) {
      rows.push_back({.key = event.name,
                      .input_shapes = shapes,
                      .device_type = event.device,
                      .is_async = event.is_async,
                      .is_user_annotation = event.is_user_annotation});
    }
    EventAverage& row = rows[place->second];
    ++row.count;
    row.flops += event.flops;
    row.cpu_memory_usage += node.cpu_bytes;
    row.device_memory_usage += node.device_bytes;
    row.device_time_total += static_cast<double>(device_ns[i]) / kNsInUs;
    const bool nests = on_host(event) && !event.is_async;
    int64_t self_ns = nests ? event.end - event.start : 0, self_device_ns = device_ns[i];
    int64_t self_bytes = nests ? node.cpu_bytes : 0, self_device_bytes = nests ? node.device_bytes : 0;
    for (const size_t child : node.children) {
      self_ns -= nodes[child].event.end - nodes[child].event.start;
      self_device_ns -= device_ns[child];
      self_bytes -= nodes[child].cpu_bytes;
      self_device_bytes -= nodes[child].device_bytes;
    }
    if (on_host(event)) row.cpu_time_total += static_cast<double>(event.end - event.start) / kNsInUs;
    row.self_cpu_time_total += static_cast<double>(self_ns) / kNsInUs;
    row.self_device_time_total += static_cast<double>(self_device_ns) / kNsInUs;
    row.self_cpu_memory_usage += self_bytes;
    row.self_device_memory_usage += self_device_bytes;
  }
  return {std::move(rows), trace.recorded};
}

}  // namespace accelerate::internal
