#include "accelerate/profile/kineto.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Type.h>
#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "accelerate/core/env.h"
#include "accelerate/core/error.h"

namespace torch::autograd::profiler {
// In kineto_shim.h, whose includes need a search path of their own.
TORCH_API void addMetadataJson(const std::string& key, const std::string& value);
}  // namespace torch::autograd::profiler

namespace accelerate::internal {
namespace {

namespace kineto = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

/// The process's recorder is in use. Of the process, as the recorder is.
std::atomic<bool> taken = false;

[[noreturn]] void refuse_second(const std::string& got) {
  throw UsageError({.place = "profile",
                    .what = "This process is recorded already",
                    .got = got,
                    .expected = "one profile at a time: LibTorch has one recorder for the process",
                    .remedy = "End the other one first; ranks that are threads of one process take turns"});
}

constexpr std::string_view kMemory = "[memory]";

/// Bookkeeping of the recorder and of autograd. Source: `_filter_name` of PyTorch's profiler.
bool left_out(std::string_view name) {
  constexpr std::array<std::string_view, 8> kNames{"[memory]",
                                                   "[OutOfMemory]",
                                                   "profiler::_record_function_enter",
                                                   "profiler::_record_function_enter_new",
                                                   "profiler::_record_function_exit",
                                                   "aten::is_leaf",
                                                   "aten::output_nr",
                                                   "aten::_version"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// Kernels have mangled names; the steps of a schedule are one line.
std::string readable(const std::string& name) {
  if (name.starts_with("ProfilerStep#")) return "ProfilerStep*";
  return name.size() > 1 ? c10::demangle(name.c_str()) : name;
}

std::string shapes_text(const kineto::KinetoEvent& event) {
  std::string out = "[";
  for (const auto& shape : event.shapes()) {
    out += out.size() > 1 ? ", [" : "[";
    for (size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    out += "]";
  }
  return out + "]";
}

bool annotation(const kineto::KinetoEvent& event) {
  const auto type = static_cast<libkineto::ActivityType>(event.activityType());
  return type == libkineto::ActivityType::USER_ANNOTATION || type == libkineto::ActivityType::GPU_USER_ANNOTATION;
}

TraceEvent trace_event(const kineto::KinetoEvent& event) {
  return {.name = readable(event.name()),
          .start = static_cast<int64_t>(event.startNs()),
          .end = static_cast<int64_t>(event.endNs()),
          .thread = event.startThreadId(),
          .id = event.correlationId(),
          .linked = event.linkedCorrelationId(),
          .device = event.deviceType(),
          .is_async = event.isAsync() || event.startThreadId() != event.endThreadId(),
          .is_user_annotation = annotation(event),
          .flops = static_cast<int64_t>(event.flops()),
          .input_shapes = shapes_text(event)};
}

/// The recorder says on standard error at most that it could not write.
bool complete(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in || in.tellg() < 2) return false;
  std::array<char, 16> tail{};
  const auto count = std::min<std::streamoff>(in.tellg(), tail.size());
  in.seekg(-count, std::ios::end);
  in.read(tail.data(), count);
  const std::string_view text(tail.data(), static_cast<size_t>(count));
  const size_t last = text.find_last_not_of(" \n");
  return in.good() && last != std::string_view::npos && text[last] == '}';
}

[[noreturn]] void fail_to_write(const std::string& path, const std::string& got) {
  throw DataError({.place = path,
                   .what = "The trace cannot be written",
                   .got = got,
                   .expected = "room and permission to write it",
                   .remedy = "Choose another folder; what was there before is unchanged"});
}

}  // namespace

struct Kineto::Config {
  ProfilerConfig profiler;
  std::set<ActivityType> activities;
  bool prepared = false;
};

Kineto::Kineto(const ProfileKwargs& options, std::set<Activity> activities) {
  if (torch::profiler::impl::profilerEnabled() || kineto::isProfilerEnabledInMainThread()) {
    refuse_second("a recording that the program has started itself");
  }
  std::set<ActivityType> types;
  for (const Activity activity : activities) {
    types.insert(activity == Activity::kCpu ? ActivityType::CPU : ActivityType::CUDA);
  }
  ProfilerConfig profiler(ProfilerState::KINETO, options.record_shapes || options.with_flops, options.profile_memory,
                          options.with_stack, options.with_flops, options.with_modules);
  config_ = std::make_unique<Config>(Config{std::move(profiler), std::move(types)});
  // It prints what it misses, a driver for example, to standard error. Read when it starts; 5: nothing.
  set_unless_set("KINETO_LOG_LEVEL", "5");
  if (taken.exchange(true)) refuse_second("another accelerator.profile() that has not ended");
}

Kineto::~Kineto() {
  try {
    // One that was prepared for would be taken for the next one's.
    if (config_->prepared && !recording_) start();
    if (recording_) stop();
  } catch (const std::exception&) {
    recording_ = false;  // it has ended with the thread that it was begun on
  }
  taken = false;
}

void Kineto::prepare() {
  kineto::prepareProfiler(config_->profiler, config_->activities);
  config_->prepared = true;
}

void Kineto::start() {
  if (!config_->prepared) prepare();
  kineto::enableProfiler(config_->profiler, config_->activities);
  recording_ = true;
}

void Kineto::describe(const std::string& key, const std::string& json) { kineto::addMetadataJson(key, json); }

std::shared_ptr<kineto::ProfilerResult> Kineto::stop() {
  recording_ = false;
  config_->prepared = false;
  if (config_->activities.contains(ActivityType::CUDA)) {
    const auto* gpus = c10::impl::getDeviceGuardImpl(c10::kCUDA);
    gpus->synchronizeDevice(gpus->getDevice().index());
  }
  return kineto::disableProfiler();
}

Trace trace_of(const kineto::ProfilerResult& result, EventList::Recorded recorded) {
  Trace trace{.recorded = std::move(recorded)};
  for (const kineto::KinetoEvent& event : result.events()) {
    const std::string name = event.name();
    if (name == kMemory) {
      const bool host = event.deviceType() == c10::kCPU;
      const int64_t bytes = event.nBytes();
      trace.memory.push_back({.at = static_cast<int64_t>(event.startNs()),
                              .cpu_bytes = host ? bytes : 0,
                              .device_bytes = host ? 0 : bytes});
    }
    if (!left_out(name) && !event.isHiddenEvent()) trace.events.push_back(trace_event(event));
  }
  return trace;
}

void write_chrome_trace(kineto::ProfilerResult& result, const std::string& path) {
  const std::filesystem::path target(path);
  std::error_code error;
  if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), error);
  if (error) fail_to_write(path, error.message());
  // A name without `.json` at its end would do, but the recorder also renames what it writes.
  const std::filesystem::path temporary = path + ".tmp-" + std::to_string(::getpid());
  result.save(temporary.string());
  if (complete(temporary)) {
    std::filesystem::rename(temporary, target, error);
    if (!error) return;
    const std::string reason = error.message();
    std::filesystem::remove(temporary, error);
    fail_to_write(path, reason);
  }
  std::filesystem::remove(temporary, error);
  fail_to_write(path, "no complete file from LibTorch's recorder");
}

}  // namespace accelerate::internal
