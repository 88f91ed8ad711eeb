#include "accelerate/optim/schedules/checks.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::string assigned(std::string_view option, const std::string& value) { return std::string(option) + " = " + value; }

}  // namespace

std::string number(double value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

double fraction(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
}

void ScheduleChecks::refuse(std::string what, std::string got, std::string expected, std::string remedy) const {
  throw ConfigError({.place = place_,
                     .what = std::move(what),
                     .got = std::move(got),
                     .expected = std::move(expected),
                     .remedy = std::move(remedy)});
}

void ScheduleChecks::warmup(int64_t warmup_steps) const {
  if (warmup_steps >= 0) return;
  refuse("The warm-up is negative", ".warmup_steps = " + std::to_string(warmup_steps), "0 or more",
         "Leave it out for no warm-up");
}

void ScheduleChecks::total(const Warmup& lengths) const {
  warmup(lengths.warmup_steps);
  if (lengths.total_steps >= std::max<int64_t>(1, lengths.warmup_steps)) return;
  refuse("The schedule ends before it can decay",
         ".total_steps = " + std::to_string(lengths.total_steps) +
             " with .warmup_steps = " + std::to_string(lengths.warmup_steps),
         ".total_steps of at least 1 and at least the warm-up",
         "Set .total_steps to the number of optimizer updates of the whole training");
}

void ScheduleChecks::at_least(std::string_view option, int64_t value, int64_t least) const {
  if (value >= least) return;
  refuse("A number of steps is too small", assigned(option, std::to_string(value)), std::to_string(least) + " or more",
         "Set " + std::string(option) + " to a number of scheduler steps");
}

void ScheduleChecks::more_than_zero(std::string_view option, double value) const {
  if (value > 0 && std::isfinite(value)) return;
  refuse("A value is not positive", assigned(option, number(value)), "a number more than 0",
         "Set " + std::string(option) + " to one");
}

void ScheduleChecks::rate(std::string_view option, double value) const {
  if (value >= 0 && std::isfinite(value)) return;
  refuse("A value is negative or not finite", assigned(option, number(value)), "a number of 0 or more",
         "Set " + std::string(option) + " to one");
}

void ScheduleChecks::rates(std::string_view option, const PerGroup& values) const {
  if (values.values().empty()) {
    refuse("A value is missing", assigned(option, "{}"), "one number, or one for each parameter group",
           "Set " + std::string(option));
  }
  for (const double value : values.values()) rate(option, value);
}

void ScheduleChecks::between_zero_and_one(std::string_view option, double value) const {
  if (value >= 0 && value <= 1) return;
  refuse("A fraction is out of range", assigned(option, number(value)), "a number from 0 to 1",
         "Set " + std::string(option) + " to one");
}

void ScheduleChecks::one_of(std::string_view option, const std::string& value,
                            std::initializer_list<const char*> choices) const {
  std::string all;
  for (const char* choice : choices) {
    if (value == choice) return;
    all += (all.empty() ? "\"" : ", \"") + std::string(choice) + "\"";
  }
  refuse("A choice is not known", assigned(option, "\"" + value + "\""), "one of " + all,
         "Set " + std::string(option) + " to one of them");
}

void ScheduleChecks::fits(std::string_view option, const PerGroup& values, const ScheduledGroup& group) const {
  if (values.fits(group.count)) return;
  refuse("The list does not fit the optimizer's parameter groups",
         std::to_string(values.values().size()) + " values of " + std::string(option) + " for " +
             std::to_string(group.count) + " groups",
         "one number for all groups, or one for each", "Write " + std::string(option) + " for every group");
}

}  // namespace accelerate::internal
