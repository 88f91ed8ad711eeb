#include "accelerate/optim/schedules/decay.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "accelerate/optim/schedules/checks.h"

namespace accelerate {

using internal::fraction;
using internal::ScheduleChecks;

Schedule step_lr(StepLROptions options) {
  const ScheduleChecks checks("step_lr");
  checks.at_least(".step_size", options.step_size, 1);
  checks.rate(".gamma", options.gamma);
  return [options](int64_t step) { return std::pow(options.gamma, step / options.step_size); };
}

Schedule multi_step_lr(MultiStepLROptions options) {
  const ScheduleChecks checks("multi_step_lr");
  for (const int64_t milestone : options.milestones) checks.at_least(".milestones", milestone, 1);
  checks.rate(".gamma", options.gamma);
  std::sort(options.milestones.begin(), options.milestones.end());
  return [options = std::move(options)](int64_t step) {
    const auto passed = std::upper_bound(options.milestones.begin(), options.milestones.end(), step);
    return std::pow(options.gamma, passed - options.milestones.begin());
  };
}

Schedule exponential_lr(ExponentialLROptions options) {
  const ScheduleChecks checks("exponential_lr");
  checks.more_than_zero(".gamma", options.gamma);
  return [options](int64_t step) { return std::pow(options.gamma, step); };
}

Schedule constant_lr(ConstantLROptions options) {
  const ScheduleChecks checks("constant_lr");
  checks.between_zero_and_one(".factor", options.factor);
  checks.at_least(".total_iters", options.total_iters, 1);
  return [options](int64_t step) { return step < options.total_iters ? options.factor : 1.0; };
}

Schedule linear_lr(LinearLROptions options) {
  const ScheduleChecks checks("linear_lr");
  checks.between_zero_and_one(".start_factor", options.start_factor);
  checks.between_zero_and_one(".end_factor", options.end_factor);
  checks.at_least(".total_iters", options.total_iters, 1);
  return [options](int64_t step) {
    if (step >= options.total_iters) return options.end_factor;
    return options.start_factor + (options.end_factor - options.start_factor) * fraction(step, options.total_iters);
  };
}

Schedule polynomial_lr(PolynomialLROptions options) {
  const ScheduleChecks checks("polynomial_lr");
  checks.at_least(".total_iters", options.total_iters, 1);
  checks.more_than_zero(".power", options.power);
  return [options](int64_t step) {
    return std::pow(1.0 - fraction(std::min(step, options.total_iters), options.total_iters), options.power);
  };
}

}  // namespace accelerate
