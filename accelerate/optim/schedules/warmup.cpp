#include "accelerate/optim/schedules/warmup.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "accelerate/optim/schedules/checks.h"

namespace accelerate {
namespace {

using internal::fraction;
using internal::kPi;
using internal::number;
using internal::ScheduleChecks;

}  // namespace

Schedule constant(ConstantOptions options) {
  ScheduleChecks("constant").warmup(options.warmup_steps);
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    return 1.0;
  };
}

Schedule linear(LinearOptions options) {
  ScheduleChecks("linear").total({options.warmup_steps, options.total_steps});
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    return std::max(0.0, fraction(options.total_steps - step, options.total_steps - options.warmup_steps));
  };
}

Schedule polynomial(PolynomialOptions options) {
  const ScheduleChecks checks("polynomial");
  checks.total({options.warmup_steps, options.total_steps});
  checks.rate(".lr_end", options.lr_end);
  checks.more_than_zero(".power", options.power);
  return Schedule(ScheduleRule{[options, checks](int64_t step, const ScheduledGroup& group) {
    const double base = group.base_rate;
    if (!(base > options.lr_end)) {
      checks.refuse("The last rate is not below the first one",
                    ".lr_end = " + number(options.lr_end) + " for group " + std::to_string(group.index) +
                        ", whose rate is " + number(base),
                    "less than the rate of every group", "Lower .lr_end, or give that group a schedule of its own");
    }
    if (step < options.warmup_steps) return internal::scaled(group, fraction(step, options.warmup_steps));
    if (step >= options.total_steps) return internal::scaled(group, options.lr_end / base);
    const double left = 1 - fraction(step - options.warmup_steps, options.total_steps - options.warmup_steps);
    const double rate = (base - options.lr_end) * std::pow(left, options.power) + options.lr_end;
    return internal::scaled(group, rate / base);
  }});
}

Schedule inverse_sqrt(InverseSqrtOptions options) {
  const ScheduleChecks checks("inverse_sqrt");
  checks.warmup(options.warmup_steps);
  constexpr int64_t kWithoutWarmup = 10'000;
  const int64_t timescale =
      options.timescale.value_or(options.warmup_steps > 0 ? options.warmup_steps : kWithoutWarmup);
  checks.at_least(".timescale", timescale, 1);
  return [warmup = options.warmup_steps, timescale](int64_t step) {
    if (step < warmup) return fraction(step, warmup);
    return 1.0 / std::sqrt(fraction(step + (timescale - warmup), timescale));
  };
}

namespace {

double risen(const std::string& type, double progress) {
  if (type == "cosine") return 0.5 * (1.0 - std::cos(kPi * progress));
  if (type == "1-sqrt") return 1.0 - std::sqrt(1.0 - progress);
  return progress;
}

double fallen(const WarmupStableDecayOptions& options, double progress) {
  if (options.decay_type == "cosine") return 0.5 * (1.0 + std::cos(kPi * options.num_cycles * 2.0 * progress));
  if (options.decay_type == "1-sqrt") return 1.0 - std::sqrt(progress);
  return 1.0 - progress;
}

int64_t stable_steps(const WarmupStableDecayOptions& options, const ScheduleChecks& checks) {
  const int64_t around = options.warmup_steps + options.decay_steps;
  if (!options.total_steps && !options.stable_steps) {
    checks.refuse("The length of the stable part is not known", "neither .total_steps nor .stable_steps", "one of them",
                  "Set .total_steps to the number of optimizer updates of the whole training");
  }
  if (options.total_steps && options.stable_steps && *options.total_steps != around + *options.stable_steps) {
    checks.refuse("The parts do not make up the whole",
                  ".total_steps = " + std::to_string(*options.total_steps) +
                      " with .warmup_steps = " + std::to_string(options.warmup_steps) + ", .stable_steps = " +
                      std::to_string(*options.stable_steps) + ", .decay_steps = " + std::to_string(options.decay_steps),
                  "the sum of the three", "Leave out .total_steps or .stable_steps");
  }
  const int64_t stable = options.stable_steps ? *options.stable_steps : *options.total_steps - around;
  if (stable < 0) {
    checks.refuse("The parts do not make up the whole",
                  options.stable_steps ? ".stable_steps = " + std::to_string(stable)
                                       : ".total_steps = " + std::to_string(*options.total_steps) + " with " +
                                             std::to_string(around) + " steps of warm-up and decay",
                  "0 or more steps between warm-up and decay", "Shorten the warm-up or the decay");
  }
  return stable;
}

}  // namespace

Schedule warmup_stable_decay(WarmupStableDecayOptions options) {
  const ScheduleChecks checks("warmup_stable_decay");
  checks.warmup(options.warmup_steps);
  checks.at_least(".decay_steps", options.decay_steps, 0);
  checks.one_of(".warmup_type", options.warmup_type, {"linear", "cosine", "1-sqrt"});
  checks.one_of(".decay_type", options.decay_type, {"linear", "cosine", "1-sqrt"});
  checks.between_zero_and_one(".min_lr_ratio", options.min_lr_ratio);
  checks.more_than_zero(".num_cycles", options.num_cycles);
  const int64_t decay_begins = options.warmup_steps + stable_steps(options, checks);
  return [options = std::move(options), decay_begins](int64_t step) {
    const auto above_minimum = [&](double factor) {
      return std::max(0.0, factor * (1.0 - options.min_lr_ratio) + options.min_lr_ratio);
    };
    if (step < options.warmup_steps) {
      return above_minimum(risen(options.warmup_type, fraction(step, options.warmup_steps)));
    }
    if (step < decay_begins) return 1.0;
    if (step < decay_begins + options.decay_steps) {
      return above_minimum(fallen(options, fraction(step - decay_begins, options.decay_steps)));
    }
    return options.min_lr_ratio;
  };
}

}  // namespace accelerate
