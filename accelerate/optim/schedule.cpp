#include "accelerate/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "accelerate/core/error.h"

namespace accelerate {
namespace {

constexpr double kPi = 3.141592653589793;

double fraction(int64_t part, int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole));
}

void check_warmup(const std::string& place, int64_t warmup_steps) {
  if (warmup_steps >= 0) return;
  throw ConfigError({.place = place,
                     .what = "The warm-up is negative",
                     .got = ".warmup_steps = " + std::to_string(warmup_steps),
                     .expected = "0 or more",
                     .remedy = "Leave it out for no warm-up"});
}

void check_total(const std::string& place, int64_t warmup_steps, int64_t total_steps) {
  check_warmup(place, warmup_steps);
  if (total_steps >= std::max<int64_t>(1, warmup_steps)) return;
  throw ConfigError(
      {.place = place,
       .what = "The schedule ends before it can decay",
       .got = ".total_steps = " + std::to_string(total_steps) + " with .warmup_steps = " + std::to_string(warmup_steps),
       .expected = ".total_steps of at least 1 and at least the warm-up",
       .remedy = "Set .total_steps to the number of optimizer updates of the whole training"});
}

}  // namespace

Schedule constant(ConstantOptions options) {
  check_warmup("constant", options.warmup_steps);
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    return 1.0;
  };
}

Schedule linear(LinearOptions options) {
  check_total("linear", options.warmup_steps, options.total_steps);
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    return std::max(0.0, fraction(options.total_steps - step, options.total_steps - options.warmup_steps));
  };
}

Schedule cosine(CosineOptions options) {
  check_total("cosine", options.warmup_steps, options.total_steps);
  if (!(options.num_cycles > 0)) {
    throw ConfigError({.place = "cosine",
                       .what = "The number of waves is not positive",
                       .got = ".num_cycles = " + std::to_string(options.num_cycles),
                       .expected = "more than 0",
                       .remedy = "Leave it out for one half wave down to 0"});
  }
  return [options](int64_t step) {
    if (step < options.warmup_steps) return fraction(step, options.warmup_steps);
    const double progress = fraction(step - options.warmup_steps, options.total_steps - options.warmup_steps);
    return std::max(0.0, 0.5 * (1.0 + std::cos(kPi * options.num_cycles * 2.0 * progress)));
  };
}

}  // namespace accelerate
