#include "accelerate/optim/schedules/cycles.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "accelerate/optim/schedules/checks.h"

namespace accelerate {
namespace {

using internal::kPi;
using internal::number;
using internal::ScheduleChecks;

int64_t one_cycle_steps(const OneCycleLROptions& options, const ScheduleChecks& checks) {
  if (options.total_steps) {
    checks.at_least(".total_steps", *options.total_steps, 1);
    return *options.total_steps;
  }
  if (!options.epochs || !options.steps_per_epoch) {
    checks.refuse("The length of the cycle is not known",
                  options.epochs            ? ".epochs without .steps_per_epoch"
                  : options.steps_per_epoch ? ".steps_per_epoch without .epochs"
                                            : "neither .total_steps nor .epochs and .steps_per_epoch",
                  ".total_steps, or both of the others", "Set .total_steps to the number of scheduler steps");
  }
  checks.at_least(".epochs", *options.epochs, 1);
  checks.at_least(".steps_per_epoch", *options.steps_per_epoch, 1);
  return *options.epochs * *options.steps_per_epoch;
}

/// From one level to another over a part of the steps.
struct Phase {
  enum Level { kFirst, kPeak, kLast };  // of the rate; momentum is lowest at the peak
  double end = 0;                       ///< the step at which `to` is reached
  Level from = kFirst;
  Level to = kPeak;
};

std::vector<Phase> phases_of(const OneCycleLROptions& options, int64_t total_steps) {
  const double total = static_cast<double>(total_steps);
  const double peak = options.pct_start * total - 1;
  if (!options.three_phase) return {{peak, Phase::kFirst, Phase::kPeak}, {total - 1, Phase::kPeak, Phase::kLast}};
  return {{peak, Phase::kFirst, Phase::kPeak},
          {2 * options.pct_start * total - 2, Phase::kPeak, Phase::kFirst},
          {total - 1, Phase::kFirst, Phase::kLast}};
}

double anneal(const std::string& strategy, double from, double to, double part) {
  if (strategy == "linear") return (to - from) * part + from;
  return to + (from - to) / 2.0 * (std::cos(kPi * part) + 1);
}

}  // namespace

Schedule one_cycle_lr(OneCycleLROptions options) {
  const ScheduleChecks checks("one_cycle_lr");
  const int64_t total_steps = one_cycle_steps(options, checks);
  checks.rates(".max_lr", options.max_lr);
  for (const double rate : options.max_lr.values()) checks.more_than_zero(".max_lr", rate);
  checks.between_zero_and_one(".pct_start", options.pct_start);
  if (options.three_phase && options.pct_start > 0.5) {
    checks.refuse("The way up and the way down are longer than the cycle",
                  ".pct_start = " + number(options.pct_start) + " with .three_phase = true", "0.5 or less",
                  "Lower .pct_start");
  }
  checks.one_of(".anneal_strategy", options.anneal_strategy, {"cos", "linear"});
  checks.rates(".base_momentum", options.base_momentum);
  checks.rates(".max_momentum", options.max_momentum);
  checks.more_than_zero(".div_factor", options.div_factor);
  checks.more_than_zero(".final_div_factor", options.final_div_factor);
  const std::vector<Phase> phases = phases_of(options, total_steps);
  auto values = [options = std::move(options), checks, phases, total_steps](int64_t step, const ScheduledGroup& group) {
    checks.fits(".max_lr", options.max_lr, group);
    checks.fits(".base_momentum", options.base_momentum, group);
    checks.fits(".max_momentum", options.max_momentum, group);
    // The last rate belongs to the last step; the original's formula rises again at the one after it.
    const double at = static_cast<double>(std::min(step, total_steps - 1));
    double begin = 0;
    size_t i = 0;
    for (; i + 1 < phases.size() && at > phases[i].end; ++i) begin = phases[i].end;
    const Phase& phase = phases[i];
    const double part = phase.end == begin ? 1.0 : (at - begin) / (phase.end - begin);
    const auto rate = [&](Phase::Level level) {
      const double peak = options.max_lr.of(group.index), first = peak / options.div_factor;
      if (level == Phase::kPeak) return peak;
      return level == Phase::kFirst ? first : first / options.final_div_factor;
    };
    const auto momentum = [&](Phase::Level level) {
      return (level == Phase::kPeak ? options.base_momentum : options.max_momentum).of(group.index);
    };
    ScheduledValues found{.rate = anneal(options.anneal_strategy, rate(phase.from), rate(phase.to), part)};
    if (options.cycle_momentum) {
      found.momentum = anneal(options.anneal_strategy, momentum(phase.from), momentum(phase.to), part);
    }
    return found;
  };
  return Schedule(ScheduleRule{.values = std::move(values), .total_steps = total_steps});
}

namespace {

/// What the height of a cycle is multiplied by.
double height(const CyclicLROptions& options, double cycle, double step) {
  if (options.scale_fn) return options.scale_fn(options.scale_mode == "cycle" ? cycle : step);
  if (options.mode == "triangular2") return 1 / std::pow(2.0, cycle - 1);
  if (options.mode == "exp_range") return std::pow(options.gamma, step);
  return 1.0;
}

}  // namespace

Schedule cyclic_lr(CyclicLROptions options) {
  const ScheduleChecks checks("cyclic_lr");
  checks.rates(".base_lr", options.base_lr);
  checks.rates(".max_lr", options.max_lr);
  for (const double rate : options.max_lr.values()) checks.more_than_zero(".max_lr", rate);
  checks.at_least(".step_size_up", options.step_size_up, 1);
  const int64_t step_size_down = options.step_size_down.value_or(options.step_size_up);
  checks.at_least(".step_size_down", step_size_down, 1);
  if (!options.scale_fn) checks.one_of(".mode", options.mode, {"triangular", "triangular2", "exp_range"});
  checks.one_of(".scale_mode", options.scale_mode, {"cycle", "iterations"});
  checks.rate(".gamma", options.gamma);
  checks.rates(".base_momentum", options.base_momentum);
  checks.rates(".max_momentum", options.max_momentum);
  const double size = static_cast<double>(options.step_size_up) + static_cast<double>(step_size_down);
  const double rising = static_cast<double>(options.step_size_up) / size;
  auto values = [options = std::move(options), checks, size, rising](int64_t step, const ScheduledGroup& group) {
    checks.fits(".base_lr", options.base_lr, group);
    checks.fits(".max_lr", options.max_lr, group);
    checks.fits(".base_momentum", options.base_momentum, group);
    checks.fits(".max_momentum", options.max_momentum, group);
    const double steps = static_cast<double>(step);
    const double cycle = std::floor(1 + steps / size);
    const double within = 1.0 + steps / size - cycle;
    const double part = within <= rising ? within / rising : (within - 1) / (rising - 1);
    const double scale = height(options, cycle, steps);
    const double base = options.base_lr.of(group.index);
    ScheduledValues found{.rate = base + (options.max_lr.of(group.index) - base) * part * scale};
    if (options.cycle_momentum) {
      const double most = options.max_momentum.of(group.index);
      found.momentum = most - (most - options.base_momentum.of(group.index)) * part * scale;
    }
    return found;
  };
  return Schedule(ScheduleRule{.values = std::move(values)});
}

}  // namespace accelerate
