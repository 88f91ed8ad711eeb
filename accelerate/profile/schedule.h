#pragma once

#include "accelerate/profile/kwargs.h"

namespace accelerate::internal {

enum class ProfilerAction { kNone, kWarmup, kRecord, kRecordAndSave };

/// Throws ConfigError for negative numbers and for cycles without an active step.
void check_schedule(const ProfileSchedule& schedule);

/// What happens during step `step`, from 0. Source: `torch.profiler.schedule`.
ProfilerAction profiler_action(const ProfileSchedule& schedule, int64_t step);

}  // namespace accelerate::internal
