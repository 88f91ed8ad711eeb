#include "tests/parity/schedule_of.h"

#include <cmath>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace parity {
namespace {

using accelerate::PerGroup;
using accelerate::Schedule;

/// Reads options that are there and leaves the others at their defaults.
class Options {
 public:
  explicit Options(const Json& description) : description_(description) {}
  template <class T>
  const Options& operator()(const char* name, T& option) const {
    if (description_.contains(name)) option = description_.at(name).get<T>();
    return *this;
  }
  template <class T>
  const Options& operator()(const char* name, std::optional<T>& option) const {
    if (description_.contains(name)) option = description_.at(name).get<T>();
    return *this;
  }
  const Options& operator()(const char* name, PerGroup& option) const {
    if (!description_.contains(name)) return *this;
    const Json& value = description_.at(name);
    option = value.is_array() ? PerGroup(value.get<std::vector<double>>()) : PerGroup(value.get<double>());
    return *this;
  }

 private:
  const Json& description_;
};

template <class Given>
Options warm(const Json& description, Given& given) {
  return Options{description}("warmup_steps", given.warmup_steps)("total_steps", given.total_steps);
}

Schedule linear(const Json& d) {
  accelerate::LinearOptions o;
  warm(d, o);
  return accelerate::linear(o);
}
Schedule cosine(const Json& d) {
  accelerate::CosineOptions o;
  warm(d, o)("num_cycles", o.num_cycles);
  return accelerate::cosine(o);
}
Schedule polynomial(const Json& d) {
  accelerate::PolynomialOptions o;
  warm(d, o)("lr_end", o.lr_end)("power", o.power);
  return accelerate::polynomial(o);
}
Schedule inverse_sqrt(const Json& d) {
  accelerate::InverseSqrtOptions o;
  Options{d}("warmup_steps", o.warmup_steps)("timescale", o.timescale);
  return accelerate::inverse_sqrt(o);
}
Schedule cosine_with_restarts(const Json& d) {
  accelerate::CosineWithRestartsOptions o;
  warm(d, o)("num_cycles", o.num_cycles);
  return accelerate::cosine_with_restarts(o);
}
Schedule cosine_with_min_lr(const Json& d) {
  accelerate::CosineWithMinLrOptions o;
  warm(d, o)("num_cycles", o.num_cycles)("min_lr", o.min_lr)("min_lr_rate", o.min_lr_rate);
  return accelerate::cosine_with_min_lr(o);
}
Schedule cosine_warmup_with_min_lr(const Json& d) {
  accelerate::CosineWarmupWithMinLrOptions o;
  warm(d, o)("num_cycles", o.num_cycles)("min_lr", o.min_lr)("min_lr_rate", o.min_lr_rate);
  Options{d}("warmup_lr_rate", o.warmup_lr_rate);
  return accelerate::cosine_warmup_with_min_lr(o);
}
Schedule warmup_stable_decay(const Json& d) {
  accelerate::WarmupStableDecayOptions o;
  warm(d, o)("decay_steps", o.decay_steps)("stable_steps", o.stable_steps)("warmup_type", o.warmup_type);
  Options{d}("decay_type", o.decay_type)("min_lr_ratio", o.min_lr_ratio)("num_cycles", o.num_cycles);
  return accelerate::warmup_stable_decay(o);
}
Schedule step_lr(const Json& d) {
  accelerate::StepLROptions o;
  Options{d}("step_size", o.step_size)("gamma", o.gamma);
  return accelerate::step_lr(o);
}
Schedule multi_step_lr(const Json& d) {
  accelerate::MultiStepLROptions o;
  Options{d}("milestones", o.milestones)("gamma", o.gamma);
  return accelerate::multi_step_lr(o);
}
Schedule exponential_lr(const Json& d) { return accelerate::exponential_lr({.gamma = d.at("gamma")}); }
Schedule constant_lr(const Json& d) {
  return accelerate::constant_lr({.factor = d.at("factor"), .total_iters = d.at("total_iters")});
}
Schedule linear_lr(const Json& d) {
  return accelerate::linear_lr(
      {.start_factor = d.at("start_factor"), .end_factor = d.at("end_factor"), .total_iters = d.at("total_iters")});
}
Schedule polynomial_lr(const Json& d) {
  return accelerate::polynomial_lr({.total_iters = d.at("total_iters"), .power = d.at("power")});
}
Schedule cosine_annealing_lr(const Json& d) {
  return accelerate::cosine_annealing_lr({.T_max = d.at("T_max"), .eta_min = d.at("eta_min")});
}
Schedule cosine_annealing_warm_restarts(const Json& d) {
  return accelerate::cosine_annealing_warm_restarts(
      {.T_0 = d.at("T_0"), .T_mult = d.at("T_mult"), .eta_min = d.at("eta_min")});
}
Schedule one_cycle_lr(const Json& d) {
  accelerate::OneCycleLROptions o;
  Options{d}("max_lr", o.max_lr)("total_steps", o.total_steps)("epochs", o.epochs);
  Options{d}("steps_per_epoch", o.steps_per_epoch)("pct_start", o.pct_start)("anneal_strategy", o.anneal_strategy);
  Options{d}("cycle_momentum", o.cycle_momentum)("base_momentum", o.base_momentum)("max_momentum", o.max_momentum);
  Options{d}("div_factor", o.div_factor)("final_div_factor", o.final_div_factor)("three_phase", o.three_phase);
  return accelerate::one_cycle_lr(o);
}
Schedule cyclic_lr(const Json& d) {
  accelerate::CyclicLROptions o;
  Options{d}("base_lr", o.base_lr)("max_lr", o.max_lr)("step_size_up", o.step_size_up);
  Options{d}("step_size_down", o.step_size_down)("mode", o.mode)("gamma", o.gamma);
  Options{d}("cycle_momentum", o.cycle_momentum)("base_momentum", o.base_momentum)("max_momentum", o.max_momentum);
  return accelerate::cyclic_lr(o);
}
std::vector<Schedule> parts(const Json& description) {
  std::vector<Schedule> schedules;
  for (const Json& part : description.at("parts")) schedules.push_back(schedule_of(part));
  return schedules;
}
Schedule chained(const Json& d) { return accelerate::chained(parts(d)); }
Schedule sequential(const Json& d) {
  return accelerate::sequential(parts(d), {.milestones = d.at("milestones").get<std::vector<int64_t>>()});
}
/// The two functions of `LambdaLR` in the generator.
Schedule lambda(const Json&) {
  return accelerate::per_group({[](int64_t step) { return 1.0 / (1.0 + static_cast<double>(step)); },
                                [](int64_t step) { return std::pow(0.95, step); }});
}

}  // namespace

Schedule schedule_of(const Json& description) {
  static const std::map<std::string, Schedule (*)(const Json&)> kMakers{
      {"linear", linear},
      {"cosine", cosine},
      {"polynomial", polynomial},
      {"inverse_sqrt", inverse_sqrt},
      {"cosine_with_restarts", cosine_with_restarts},
      {"cosine_with_min_lr", cosine_with_min_lr},
      {"cosine_warmup_with_min_lr", cosine_warmup_with_min_lr},
      {"warmup_stable_decay", warmup_stable_decay},
      {"step_lr", step_lr},
      {"multi_step_lr", multi_step_lr},
      {"exponential_lr", exponential_lr},
      {"constant_lr", constant_lr},
      {"linear_lr", linear_lr},
      {"polynomial_lr", polynomial_lr},
      {"cosine_annealing_lr", cosine_annealing_lr},
      {"cosine_annealing_warm_restarts", cosine_annealing_warm_restarts},
      {"one_cycle_lr", one_cycle_lr},
      {"cyclic_lr", cyclic_lr},
      {"chained", chained},
      {"sequential", sequential},
      {"lambda", lambda}};
  const auto maker = kMakers.find(description.at("kind").get<std::string>());
  if (maker == kMakers.end()) throw std::runtime_error("a fixture names an unknown schedule: " + description.dump());
  return maker->second(description);
}

accelerate::ReduceLROnPlateau plateau_of(const Json& options) {
  accelerate::ReduceLROnPlateau o;
  Options{options}("mode", o.mode)("factor", o.factor)("patience", o.patience)("threshold", o.threshold);
  Options{options}("threshold_mode", o.threshold_mode)("cooldown", o.cooldown)("min_lr", o.min_lr)("eps", o.eps);
  return o;
}

}  // namespace parity
