#include "accelerate/plan_capture.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

void require_at_least(const char* field, int64_t value, int64_t least) {
  if (value >= least) return;
  throw ConfigError({.place = "cuda_graph",
                     .what = "An option of the capture is out of range",
                     .got = std::string(field) + " = " + std::to_string(value),
                     .expected = std::to_string(least) + " or more",
                     .remedy = "Correct CudaGraph, or leave the field out"});
}

}  // namespace

std::string words(const CudaGraph& options) {
  std::ostringstream text;
  text << "captured after " << options.warmup_steps << " steps, up to " << options.max_graphs << " kinds";
  return text.str();
}

CaptureDeviceEntry resolve_capture(const AcceleratorOptions& options, c10::Device device) {
  if (!options.cuda_graph) return {.type = device.type(), .make = {}};
  require_at_least(".warmup_steps", options.cuda_graph->warmup_steps, 1);
  require_at_least(".max_graphs", options.cuda_graph->max_graphs, 1);
  std::vector<CaptureDeviceEntry> known = options.extensions.captures;
  for (CaptureDeviceEntry& entry : builtin_captures()) known.push_back(std::move(entry));
  const auto found =
      std::find_if(known.begin(), known.end(), [&](const auto& entry) { return entry.type == device.type(); });
  if (found != known.end()) return *found;
  throw ConfigError({.place = "cuda_graph",
                     .what = "Steps cannot be captured on this device",
                     .got = "the device " + device.str(),
                     .expected = "a CUDA device, and a build with -DACCELERATE_CUDA=ON",
                     .remedy = "Leave .cuda_graph out: the loop runs the same without it"});
}

}  // namespace accelerate::internal
