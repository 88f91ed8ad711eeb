#include "accelerate/profile/profiler.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "accelerate/core/error.h"
#include "accelerate/profile/kineto.h"
#include "accelerate/profile/schedule.h"

namespace accelerate {
namespace {

using internal::Activity;
using internal::ProfilerAction;

std::string known_activities() { return "\"cpu\" or \"cuda\""; }

std::set<Activity> activities_of(const ProfileKwargs& options, const internal::ProfilePlace& place) {
  const bool gpus = place.cuda_devices > 0;
  if (options.activities.empty()) {
    return gpus ? std::set{Activity::kCpu, Activity::kCuda} : std::set{Activity::kCpu};
  }
  std::set<Activity> activities;
  for (const std::string& name : options.activities) {
    if (name != "cpu" && name != "cuda") {
      throw ConfigError({.place = "profile",
                         .what = "Invalid profiler activity",
                         .got = "\"" + name + "\"",
                         .expected = known_activities(),
                         .remedy = "Leave .activities empty to record all that this process has"});
    }
    if (name == "cpu") {
      activities.insert(Activity::kCpu);
    } else if (gpus) {
      activities.insert(Activity::kCuda);
    } else {
      place.log.warning("profile: no GPU is visible, so the activity \"cuda\" is not recorded");
    }
  }
  if (!activities.empty()) return activities;
  throw ConfigError({.place = "profile",
                     .what = "There is nothing to record",
                     .got = "the activity \"cuda\" alone, without a GPU",
                     .expected = known_activities(),
                     .remedy = "Add \"cpu\""});
}

/// A line in the trace from here on, until it ends.
class StepMark {
 public:
  explicit StepMark(int64_t step) : record_(at::RecordScope::USER_SCOPE) {
    if (record_.isActive()) record_.before("ProfilerStep#" + std::to_string(step));
  }

 private:
  at::RecordFunction record_;
};

bool records(ProfilerAction action) {
  return action == ProfilerAction::kRecord || action == ProfilerAction::kRecordAndSave;
}

}  // namespace

class Profiler::Impl {
 public:
  Impl(ProfileKwargs options, internal::ProfilePlace place)
      : options_(std::move(options)),
        place_(std::move(place)),
        thread_(std::this_thread::get_id()),
        exceptions_(std::uncaught_exceptions()) {
    internal::check_schedule(options_.schedule_option);
    const std::set<Activity> activities = activities_of(options_, place_);
    recorded_ = {.device = activities.contains(Activity::kCuda) ? "CUDA" : "",
                 .memory = options_.profile_memory,
                 .flops = options_.with_flops};
    marks_steps_ = options_.schedule_option.active > 0;
    kineto_ = std::make_unique<internal::Kineto>(options_, activities);
    enter(internal::profiler_action(options_.schedule_option, 0));
  }

  void step(Profiler& self) {
    require_here("step");
    require_running("step");
    mark_.reset();
    leave(self, internal::profiler_action(options_.schedule_option, step_ + 1));
  }

  void finish(Profiler& self) {
    require_here("finish");
    if (kineto_ == nullptr) return;
    mark_.reset();
    const bool cycle = kineto_->recording();
    if (cycle) keep(kineto_->stop());
    kineto_.reset();  // also one that was only warming up
    std::exception_ptr failure;
    try {
      if (cycle && options_.on_trace_ready) options_.on_trace_ready(self);
      if (!options_.output_trace_dir.empty()) {
        const std::string name = "profile_" + std::to_string(place_.group.rank()) + ".json";
        export_chrome_trace((std::filesystem::path(options_.output_trace_dir) / name).string());
      }
    } catch (...) {
      failure = std::current_exception();  // what a callback throws need not be an exception
    }
    // Also by a rank that could not write: the others wait.
    if (!options_.output_trace_dir.empty()) place_.group.barrier();
    if (failure) std::rethrow_exception(failure);
  }

  /// At the end of the scope.
  void end(Profiler& self) noexcept {
    mark_.reset();
    if (std::uncaught_exceptions() > exceptions_) {
      kineto_.reset();
      return;
    }
    try {
      finish(self);
    } catch (const std::exception& error) {
      place_.log.warning(std::string("profile: ") + error.what());
    } catch (...) {
      place_.log.warning("profile: on_trace_ready threw something that is no exception");
    }
  }

  int64_t step_num() const { return step_; }

  EventList key_averages(KeyAveragesOptions options) const {
    require_cycle("key_averages");
    if (options.group_by_input_shape && !options_.record_shapes && !options_.with_flops) {
      throw UsageError({.place = "key_averages",
                        .what = "The shapes have not been recorded",
                        .got = ".group_by_input_shape = true",
                        .expected = "it with ProfileKwargs::record_shapes",
                        .remedy = "Pass .record_shapes = true to profile()"});
    }
    return internal::averages_of(internal::trace_of(*result_, recorded_),
                                 {.by_input_shape = options.group_by_input_shape});
  }

  void export_chrome_trace(const std::string& path) {
    require_cycle("export_chrome_trace");
    if (written_.empty()) {
      internal::write_chrome_trace(*result_, path);
      written_ = path;
      return;
    }
    // The recorder gives a trace away once: from then on it is where it was written.
    std::error_code error;
    const std::filesystem::path target(path);
    if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), error);
    if (!error && std::filesystem::equivalent(written_, target, error)) return;
    error.clear();
    std::filesystem::copy_file(written_, target, std::filesystem::copy_options::overwrite_existing, error);
    if (!error) return;
    throw DataError({.place = path,
                     .what = "The trace cannot be written again",
                     .got = error.message() + " while copying " + written_,
                     .expected = "the file that it was written to first, and room for another",
                     .remedy = "Leave the first file where it is until the profile is gone"});
  }

 private:
  /// Step `step_` begins.
  void enter(ProfilerAction action) {
    action_ = action;
    if (action == ProfilerAction::kWarmup) kineto_->prepare();
    if (records(action)) start();
    mark();
  }

  void mark() {
    if (marks_steps_) mark_.emplace(step_);
  }

  void start() {
    kineto_->start();
    const std::pair<const char*, bool> settings[] = {{"profile_memory", options_.profile_memory},
                                                     {"with_stack", options_.with_stack},
                                                     {"record_shapes", options_.record_shapes},
                                                     {"with_modules", options_.with_modules},
                                                     {"with_flops", options_.with_flops}};
    for (const auto& [name, on] : settings) {
      if (on) kineto_->describe(name, "1");
    }
    kineto_->describe("distributedInfo", "{\"rank\": " + std::to_string(place_.group.rank()) +
                                             ", \"world_size\": " + std::to_string(place_.group.size()) + "}");
  }

  /// From the step that ends to the next one. Source: `action_map` of `torch.profiler.profile`; what its schedules
  /// cannot do (a warm-up that nothing follows) is left out.
  void leave(Profiler& self, ProfilerAction next) {
    const ProfilerAction last = std::exchange(action_, next);
    ++step_;
    std::exception_ptr failure;
    if (last == ProfilerAction::kRecordAndSave) {
      keep(kineto_->stop());
      try {
        if (options_.on_trace_ready) options_.on_trace_ready(self);
      } catch (...) {
        failure = std::current_exception();
      }
    }
    if (next == ProfilerAction::kWarmup && last != ProfilerAction::kWarmup) kineto_->prepare();
    if (records(next) && !kineto_->recording()) start();
    mark();
    if (failure) std::rethrow_exception(failure);  // now: the next step is recorded all the same
  }

  void keep(std::shared_ptr<torch::autograd::profiler::ProfilerResult> result) {
    result_ = std::move(result);
    written_.clear();
  }

  void require_here(const char* verb) const {
    if (std::this_thread::get_id() == thread_) return;
    throw UsageError({.place = std::string("profile: ") + verb,
                      .what = "The profile belongs to another thread",
                      .got = "a call on this thread",
                      .expected = "it on the thread that called accelerator.profile()",
                      .remedy = "Begin and end a profile on one thread"});
  }
  void require_running(const char* verb) const {
    if (kineto_ != nullptr) return;
    throw UsageError({.place = std::string("profile: ") + verb,
                      .what = "The profile has ended",
                      .got = "a call after finish()",
                      .expected = "steps before it",
                      .remedy = "Call finish() after the loop"});
  }
  void require_cycle(const char* verb) const {
    if (result_ != nullptr) return;
    throw UsageError({.place = std::string("profile: ") + verb,
                      .what = "Nothing has been recorded yet",
                      .got = "no cycle that has ended, after " + std::to_string(step_) + " steps",
                      .expected = "the call after finish(), or in on_trace_ready",
                      .remedy = "Call profiler.finish() first; with a schedule, step() often enough to end a cycle"});
  }

  ProfileKwargs options_;
  internal::ProfilePlace place_;
  EventList::Recorded recorded_;
  std::thread::id thread_;
  int exceptions_;
  bool marks_steps_ = false;
  int64_t step_ = 0;
  ProfilerAction action_ = ProfilerAction::kNone;
  std::unique_ptr<internal::Kineto> kineto_;  ///< until the profile ends
  std::optional<StepMark> mark_;
  std::shared_ptr<torch::autograd::profiler::ProfilerResult> result_;
  std::string written_;  ///< where the result was written first
};

Profiler::Profiler(ProfileKwargs options, internal::ProfilePlace place)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(place))) {}
Profiler::~Profiler() {
  if (impl_) impl_->end(*this);
}
Profiler::Profiler(Profiler&&) noexcept = default;

void Profiler::step() { impl_->step(*this); }
int64_t Profiler::step_num() const { return impl_->step_num(); }
void Profiler::finish() { impl_->finish(*this); }
EventList Profiler::key_averages(KeyAveragesOptions options) const { return impl_->key_averages(options); }
void Profiler::export_chrome_trace(const std::string& path) const { impl_->export_chrome_trace(path); }

}  // namespace accelerate
