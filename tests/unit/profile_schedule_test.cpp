// The schedule of a profile: which steps do what.
#include "accelerate/profile/schedule.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

namespace {

using accelerate::ProfileSchedule;
using accelerate::internal::profiler_action;
using accelerate::internal::ProfilerAction;

TEST(ProfileSchedule, UntouchedRecordsEverything) {
  for (int64_t step : {0, 1, 1000}) EXPECT_EQ(profiler_action({}, step), ProfilerAction::kRecord);
}

TEST(ProfileSchedule, OneByHand) {
  const ProfileSchedule schedule{.wait = 1, .warmup = 1, .active = 2, .repeat = 2, .skip_first = 1};
  constexpr auto kN = ProfilerAction::kNone, kW = ProfilerAction::kWarmup, kR = ProfilerAction::kRecord,
                 kS = ProfilerAction::kRecordAndSave;
  const std::vector<ProfilerAction> expected{kN, kN, kW, kR, kS, kN, kW, kR, kS, kN, kN, kN, kN};
  for (size_t step = 0; step < expected.size(); ++step) {
    EXPECT_EQ(profiler_action(schedule, static_cast<int64_t>(step)), expected[step]) << step;
  }
}

RC_GTEST_PROP(ProfileSchedule, HasAsManyStepsOfEachKindAsItSays, ()) {
  const ProfileSchedule schedule{.wait = *rc::gen::inRange(0, 4),
                                 .warmup = *rc::gen::inRange(0, 4),
                                 .active = *rc::gen::inRange(1, 5),
                                 .repeat = *rc::gen::inRange(0, 4),
                                 .skip_first = *rc::gen::inRange(0, 6)};
  const int64_t cycle = schedule.wait + schedule.warmup + schedule.active;
  const int64_t cycles = schedule.repeat > 0 ? schedule.repeat : 5;
  int64_t warm = 0, active = 0, saved = 0;
  for (int64_t step = 0; step < schedule.skip_first + cycles * cycle; ++step) {
    const ProfilerAction action = profiler_action(schedule, step);
    if (step < schedule.skip_first) RC_ASSERT(action == ProfilerAction::kNone);
    warm += action == ProfilerAction::kWarmup;
    saved += action == ProfilerAction::kRecordAndSave;
    active += action == ProfilerAction::kRecord || action == ProfilerAction::kRecordAndSave;
    // What is warmed up is recorded next, what is recorded is saved.
    const ProfilerAction next = profiler_action(schedule, step + 1);
    if (action == ProfilerAction::kWarmup) RC_ASSERT(next != ProfilerAction::kNone);
    if (action == ProfilerAction::kRecord) {
      RC_ASSERT(next == ProfilerAction::kRecord || next == ProfilerAction::kRecordAndSave);
    }
  }
  RC_ASSERT(warm == cycles * schedule.warmup);
  RC_ASSERT(active == cycles * schedule.active);
  RC_ASSERT(saved == cycles);
  if (schedule.repeat > 0) {
    RC_ASSERT(profiler_action(schedule, schedule.skip_first + cycles * cycle) == ProfilerAction::kNone);
  }
}

}  // namespace
