#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "accelerate/optim/schedule.h"

namespace accelerate::internal {

/// The options of one schedule: each check throws ConfigError naming the schedule, the option and its value.
class ScheduleChecks {
 public:
  explicit ScheduleChecks(std::string schedule) : place_(std::move(schedule)) {}

  struct Warmup {
    int64_t warmup_steps = 0;
    int64_t total_steps = 0;
  };
  void warmup(int64_t warmup_steps) const;
  void total(const Warmup& lengths) const;
  void at_least(std::string_view option, int64_t value, int64_t least) const;
  void more_than_zero(std::string_view option, double value) const;
  /// Finite and not negative.
  void rate(std::string_view option, double value) const;
  void rates(std::string_view option, const PerGroup& values) const;
  void between_zero_and_one(std::string_view option, double value) const;
  void one_of(std::string_view option, const std::string& value, std::initializer_list<const char*> choices) const;
  /// A list that is neither one value nor one for each group: thrown when the groups are known.
  void fits(std::string_view option, const PerGroup& values, const ScheduledGroup& group) const;
  [[noreturn]] void refuse(std::string what, std::string got, std::string expected, std::string remedy) const;

 private:
  std::string place_;
};

/// A number as a user writes it: 0.001, 1e-07.
std::string number(double value);

/// part / whole, where a whole of 0 counts as 1.
double fraction(int64_t part, int64_t whole);

/// The rate as the original's LambdaLR has it, to the last bit.
inline ScheduledValues scaled(const ScheduledGroup& group, double factor) { return {.rate = group.base_rate * factor}; }

inline constexpr double kPi = 3.141592653589793;

}  // namespace accelerate::internal
