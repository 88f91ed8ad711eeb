#include "accelerate/optim/schedules/cosine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "accelerate/core/error.h"
#include "accelerate/optim/schedules/checks.h"

namespace accelerate {
namespace {

using internal::fraction;
using internal::kPi;
using internal::number;
using internal::ScheduleChecks;

void check_cycles(const std::string& place, double num_cycles) {
  if (num_cycles > 0 && std::isfinite(num_cycles)) return;
  throw ConfigError({.place = place,
                     .what = "The number of waves is not positive",
                     .got = ".num_cycles = " + std::to_string(num_cycles),
                     .expected = "more than 0",
                     .remedy = "Leave it out for one half wave down to 0"});
}

double wave(double num_cycles, double progress) { return 0.5 * (1.0 + std::cos(kPi * num_cycles * 2.0 * progress)); }

/// The lowest factor, from whichever of the two options is given.
class Minimum {
 public:
  template <class Options>
  Minimum(const ScheduleChecks& checks, const Options& options)
      : checks_(checks), rate_(options.min_lr), factor_(options.min_lr_rate) {
    if (rate_.has_value() == factor_.has_value()) {
      checks_.refuse("The minimum has to be given once",
                     rate_ ? ".min_lr = " + number(*rate_) + " and .min_lr_rate = " + number(*factor_)
                           : "neither .min_lr nor .min_lr_rate",
                     "one of the two", "Set .min_lr to a rate, or .min_lr_rate to a factor on the base rate");
    }
    if (rate_) checks_.rate(".min_lr", *rate_);
    if (factor_) checks_.between_zero_and_one(".min_lr_rate", *factor_);
  }

  double factor(const ScheduledGroup& group) const {
    if (factor_) return *factor_;
    if (group.base_rate < *rate_) {
      checks_.refuse("A group starts below the minimum",
                     ".min_lr = " + number(*rate_) + " for group " + std::to_string(group.index) + ", whose rate is " +
                         number(group.base_rate),
                     "a minimum that no group's rate is below", "Set .min_lr_rate, a factor on each group's rate");
    }
    return group.base_rate > 0 ? *rate_ / group.base_rate : 0.0;
  }

 private:
  ScheduleChecks checks_;
  std::optional<double> rate_, factor_;
};

double above(double minimum, double factor) { return std::max(0.0, factor * (1 - minimum) + minimum); }

}  // namespace

Schedule cosine(CosineOptions options) {
  ScheduleChecks("cosine").total({options.warmup_steps, options.total_steps});
  check_cycles("cosine", options.num_cycles);
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    const double progress = fraction(step - options.warmup_steps, options.total_steps - options.warmup_steps);
    return std::max(0.0, wave(options.num_cycles, progress));
  };
}

Schedule cosine_with_restarts(CosineWithRestartsOptions options) {
  const ScheduleChecks checks("cosine_with_restarts");
  checks.total({options.warmup_steps, options.total_steps});
  checks.at_least(".num_cycles", options.num_cycles, 1);
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    const double progress = fraction(step - options.warmup_steps, options.total_steps - options.warmup_steps);
    if (progress >= 1.0) return 0.0;
    const double within = std::fmod(static_cast<double>(options.num_cycles) * progress, 1.0);
    return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * within)));
  };
}

Schedule cosine_with_min_lr(CosineWithMinLrOptions options) {
  const ScheduleChecks checks("cosine_with_min_lr");
  checks.total({options.warmup_steps, options.total_steps});
  check_cycles("cosine_with_min_lr", options.num_cycles);
  return Schedule(
      ScheduleRule{[options, minimum = Minimum(checks, options)](int64_t step, const ScheduledGroup& group) {
        const double lowest = minimum.factor(group);
        if (step < options.warmup_steps) return internal::scaled(group, fraction(step, options.warmup_steps));
        const double progress = fraction(step - options.warmup_steps, options.total_steps - options.warmup_steps);
        return internal::scaled(group, above(lowest, wave(options.num_cycles, progress)));
      }});
}

Schedule cosine_warmup_with_min_lr(CosineWarmupWithMinLrOptions options) {
  const ScheduleChecks checks("cosine_warmup_with_min_lr");
  checks.total({options.warmup_steps, options.total_steps});
  check_cycles("cosine_warmup_with_min_lr", options.num_cycles);
  if (options.warmup_lr_rate) checks.between_zero_and_one(".warmup_lr_rate", *options.warmup_lr_rate);
  return Schedule(
      ScheduleRule{[options, minimum = Minimum(checks, options)](int64_t step, const ScheduledGroup& group) {
        const double lowest = minimum.factor(group);
        if (step < options.warmup_steps) {
          if (!options.warmup_lr_rate) return internal::scaled(group, fraction(step + 1, options.warmup_steps));
          const double first = *options.warmup_lr_rate;
          // The order of operations is the original's: product, then quotient.
          const double steps = static_cast<double>(std::max<int64_t>(1, options.warmup_steps - 1));
          return internal::scaled(group, first + (1.0 - first) * static_cast<double>(step) / steps);
        }
        const double progress = fraction(step - options.warmup_steps + 1, options.total_steps - options.warmup_steps);
        return internal::scaled(group, above(lowest, wave(options.num_cycles, progress)));
      }});
}

Schedule cosine_annealing_lr(CosineAnnealingLROptions options) {
  const ScheduleChecks checks("cosine_annealing_lr");
  checks.at_least(".T_max", options.T_max, 1);
  checks.rate(".eta_min", options.eta_min);
  return Schedule(ScheduleRule{[options](int64_t step, const ScheduledGroup& group) {
    const double falling = 1 + std::cos(kPi * static_cast<double>(step) / static_cast<double>(options.T_max));
    return ScheduledValues{.rate = options.eta_min + (group.base_rate - options.eta_min) * falling / 2};
  }});
}

Schedule cosine_annealing_warm_restarts(CosineAnnealingWarmRestartsOptions options) {
  const ScheduleChecks checks("cosine_annealing_warm_restarts");
  checks.at_least(".T_0", options.T_0, 1);
  checks.at_least(".T_mult", options.T_mult, 1);
  checks.rate(".eta_min", options.eta_min);
  return Schedule(ScheduleRule{[options](int64_t step, const ScheduledGroup& group) {
    int64_t within = step, length = options.T_0;
    if (options.T_mult == 1) {
      within %= length;
    } else {
      while (within >= length) {
        within -= length;
        constexpr int64_t kEndless = std::numeric_limits<int64_t>::max();
        length = length > kEndless / options.T_mult ? kEndless : length * options.T_mult;
      }
    }
    const double falling = 1 + std::cos(kPi * static_cast<double>(within) / static_cast<double>(length));
    return ScheduledValues{.rate = options.eta_min + (group.base_rate - options.eta_min) * falling / 2};
  }});
}

}  // namespace accelerate
