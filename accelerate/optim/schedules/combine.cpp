#include "accelerate/optim/schedules/combine.h"

#include <algorithm>
#include <string>
#include <utility>

#include "accelerate/optim/schedules/checks.h"

namespace accelerate {
namespace {

using internal::ScheduleChecks;

void check_parts(const ScheduleChecks& checks, const std::vector<Schedule>& schedules) {
  if (schedules.empty()) {
    checks.refuse("There is no schedule to combine", "an empty list", "one schedule or more", "Pass some");
  }
  for (const Schedule& schedule : schedules) {
    if (!schedule) {
      checks.refuse("A schedule of the list is empty", "an empty function", "a function of the step",
                    "Pass constant() for a part that changes nothing");
    }
    if (schedule.unit() != ScheduleUnit::kBatches) {
      checks.refuse("A part has a unit of its own", "a schedule with .in(unit) in the list", "one unit for all parts",
                    "Call .in(unit) of the combined schedule");
    }
  }
}

}  // namespace

Schedule chained(std::vector<Schedule> schedules) {
  check_parts(ScheduleChecks("chained"), schedules);
  return Schedule(ScheduleRule{[schedules = std::move(schedules)](int64_t step, ScheduledGroup group) {
    ScheduledValues values;
    for (const Schedule& schedule : schedules) {
      const ScheduledValues next = schedule.at(step, group);
      group.base_rate = values.rate = next.rate;
      if (next.momentum) values.momentum = next.momentum;
    }
    return values;
  }});
}

Schedule sequential(std::vector<Schedule> schedules, SequentialOptions options) {
  const ScheduleChecks checks("sequential");
  check_parts(checks, schedules);
  if (options.milestones.size() + 1 != schedules.size()) {
    checks.refuse("The milestones do not fit the schedules",
                  std::to_string(options.milestones.size()) + " milestones for " + std::to_string(schedules.size()) +
                      " schedules",
                  "one less than schedules: the steps at which the second and later ones begin",
                  "Write .milestones for all but the first schedule");
  }
  int64_t last = 0;
  for (const int64_t milestone : options.milestones) {
    if (milestone <= last) {
      checks.refuse("The milestones do not rise",
                    ".milestones with " + std::to_string(milestone) + " after " + std::to_string(last),
                    "each more than the one before, the first more than 0", "Sort them");
    }
    last = milestone;
  }
  return Schedule(ScheduleRule{[schedules = std::move(schedules), milestones = std::move(options.milestones)](
                                   int64_t step, const ScheduledGroup& group) {
    const auto begun =
        static_cast<size_t>(std::upper_bound(milestones.begin(), milestones.end(), step) - milestones.begin());
    return schedules[begun].at(begun == 0 ? step : step - milestones[begun - 1], group);
  }});
}

Schedule per_group(std::vector<Schedule> schedules) {
  const ScheduleChecks checks("per_group");
  check_parts(checks, schedules);
  return Schedule(ScheduleRule{[schedules = std::move(schedules), checks](int64_t step, const ScheduledGroup& group) {
    if (schedules.size() != group.count) {
      checks.refuse("The schedules do not fit the optimizer's parameter groups",
                    std::to_string(schedules.size()) + " schedules for " + std::to_string(group.count) + " groups",
                    "one schedule for each group", "Pass constant() for a group that keeps its rate");
    }
    return schedules[group.index].at(step, group);
  }});
}

Schedule hold_after(Schedule schedule, HoldAfterOptions options) {
  const ScheduleChecks checks("hold_after");
  checks.at_least(".step", options.step, 0);
  if (!schedule) checks.refuse("The schedule is empty", "an empty function", "a schedule", "Pass one");
  const ScheduleUnit unit = schedule.unit();
  return Schedule(ScheduleRule{
                      .values = [schedule = std::move(schedule), last = options.step](
                                    int64_t step,
                                    const ScheduledGroup& group) { return schedule.at(std::min(step, last), group); }})
      .in(unit);
}

}  // namespace accelerate
