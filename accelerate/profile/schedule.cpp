#include "accelerate/profile/schedule.h"

#include <array>
#include <string>
#include <utility>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

bool given(const ProfileSchedule& schedule) {
  return schedule.wait != 0 || schedule.warmup != 0 || schedule.active != 0 || schedule.repeat != 0 ||
         schedule.skip_first != 0;
}

[[noreturn]] void refuse(const char* field, int64_t got, const char* expected) {
  throw ConfigError({.place = "profile",
                     .what = "Invalid profiler schedule",
                     .got = std::string(".schedule_option.") + field + " = " + std::to_string(got),
                     .expected = expected,
                     .remedy = "A cycle is {.wait = 1, .warmup = 1, .active = 2}; without a schedule all is recorded"});
}

}  // namespace

void check_schedule(const ProfileSchedule& schedule) {
  const std::array<std::pair<const char*, int64_t>, 4> counts{{{"wait", schedule.wait},
                                                               {"warmup", schedule.warmup},
                                                               {"repeat", schedule.repeat},
                                                               {"skip_first", schedule.skip_first}}};
  for (const auto& [field, count] : counts) {
    if (count < 0) refuse(field, count, "0 or more");
  }
  if (given(schedule) && schedule.active < 1) refuse("active", schedule.active, "1 or more");
}

ProfilerAction profiler_action(const ProfileSchedule& schedule, int64_t step) {
  if (!given(schedule)) return ProfilerAction::kRecord;
  if (step < schedule.skip_first) return ProfilerAction::kNone;
  step -= schedule.skip_first;
  const int64_t cycle = schedule.wait + schedule.warmup + schedule.active;
  if (schedule.repeat > 0 && step / cycle >= schedule.repeat) return ProfilerAction::kNone;
  const int64_t at = step % cycle;
  if (at < schedule.wait) return ProfilerAction::kNone;
  if (at < schedule.wait + schedule.warmup) return ProfilerAction::kWarmup;
  return at < cycle - 1 ? ProfilerAction::kRecord : ProfilerAction::kRecordAndSave;
}

}  // namespace accelerate::internal
