#include "tests/unit/any_schedule.h"

namespace training {

double any_number(double from, double to) {
  constexpr int64_t kParts = 1000;
  return from + (to - from) * static_cast<double>(*rc::gen::inRange<int64_t>(0, kParts + 1)) / kParts;
}

int64_t any_count(int64_t from, int64_t to) { return *rc::gen::inRange<int64_t>(from, to); }

std::vector<NamedSchedule> any_schedules() {
  using namespace accelerate;  // NOLINT: thirty names of it
  const int64_t warmup = any_count(0, 40), total = warmup + any_count(1, 200);
  const bool decays = total > warmup;
  std::vector<NamedSchedule> all;
  all.push_back({"constant", constant({.warmup_steps = warmup}), warmup, true});
  all.push_back({"linear", linear({.warmup_steps = warmup, .total_steps = total}), warmup, decays});
  all.push_back(
      {"polynomial",
       polynomial(
           {.warmup_steps = warmup, .total_steps = total, .lr_end = any_number(0, 0.09), .power = any_number(0.1, 4)}),
       warmup, decays});
  all.push_back({"inverse_sqrt", inverse_sqrt({.warmup_steps = warmup}), warmup, true});
  all.push_back({"inverse_sqrt", inverse_sqrt({.warmup_steps = warmup, .timescale = any_count(1, 100)}), warmup, true});
  all.push_back({"cosine", cosine({.warmup_steps = warmup, .total_steps = total, .num_cycles = any_number(0.01, 5)}),
                 warmup, decays});
  all.push_back({"cosine_with_restarts",
                 cosine_with_restarts({.warmup_steps = warmup, .total_steps = total, .num_cycles = any_count(1, 9)}),
                 warmup, decays});
  all.push_back({"cosine_with_min_lr",
                 cosine_with_min_lr({.warmup_steps = warmup,
                                     .total_steps = total,
                                     .num_cycles = any_number(0.01, 5),
                                     .min_lr = any_number(0, 0.1)}),
                 warmup, decays});
  CosineWarmupWithMinLrOptions ahead{
      .warmup_steps = warmup, .total_steps = total, .num_cycles = any_number(0.01, 5), .min_lr_rate = any_number(0, 1)};
  if (any_count(0, 2) == 1) ahead.warmup_lr_rate = any_number(0, 1);
  all.push_back({"cosine_warmup_with_min_lr", cosine_warmup_with_min_lr(ahead)});
  const std::vector<std::string> shapes{"linear", "cosine", "1-sqrt"};
  all.push_back({"warmup_stable_decay", warmup_stable_decay({.warmup_steps = warmup,
                                                             .decay_steps = any_count(0, 50),
                                                             .stable_steps = any_count(0, 50),
                                                             .warmup_type = any_of(shapes),
                                                             .decay_type = any_of(shapes),
                                                             .min_lr_ratio = any_number(0, 1),
                                                             .num_cycles = any_number(0.1, 3)})});
  const double gamma = any_number(0.01, 1);
  all.push_back({"step_lr", step_lr({.step_size = any_count(1, 30), .gamma = gamma})});
  all.push_back(
      {"multi_step_lr", multi_step_lr({.milestones = {any_count(1, 99), any_count(1, 99), 7}, .gamma = gamma})});
  all.push_back({"exponential_lr", exponential_lr({.gamma = gamma})});
  all.push_back({"constant_lr", constant_lr({.factor = gamma, .total_iters = any_count(1, 60)})});
  all.push_back(
      {"linear_lr",
       linear_lr({.start_factor = any_number(0, 1), .end_factor = any_number(0, 1), .total_iters = any_count(1, 60)})});
  all.push_back({"polynomial_lr", polynomial_lr({.total_iters = any_count(1, 60), .power = any_number(0.1, 4)})});
  const double lowest = any_number(0, 0.2);
  all.push_back({"cosine_annealing_lr", cosine_annealing_lr({.T_max = any_count(1, 90), .eta_min = lowest})});
  all.push_back(
      {"cosine_annealing_warm_restarts",
       cosine_annealing_warm_restarts({.T_0 = any_count(1, 40), .T_mult = any_count(1, 4), .eta_min = lowest})});
  const bool three = any_count(0, 2) == 1;
  all.push_back({"one_cycle_lr", one_cycle_lr({.max_lr = any_number(0.001, 2),
                                               .total_steps = any_count(1, 200),
                                               .pct_start = any_number(0, three ? 0.5 : 1),
                                               .anneal_strategy = any_of<std::string>({"cos", "linear"}),
                                               .base_momentum = any_number(0, 0.9),
                                               .max_momentum = any_number(0, 0.99),
                                               .div_factor = any_number(1, 50),
                                               .final_div_factor = any_number(1, 1e4),
                                               .three_phase = three})});
  const double base = any_number(0, 0.5);
  all.push_back({"cyclic_lr", cyclic_lr({.base_lr = base,
                                         .max_lr = base + any_number(0.001, 1),
                                         .step_size_up = any_count(1, 50),
                                         .step_size_down = any_count(1, 50),
                                         .mode = any_of<std::string>({"triangular", "triangular2", "exp_range"}),
                                         .gamma = gamma,
                                         .base_momentum = any_number(0, 0.8),
                                         .max_momentum = any_number(0.8, 0.99)})});
  std::vector<Schedule> parts;
  for (int64_t i = any_count(1, 4); i > 0; --i) {
    parts.push_back(all[static_cast<size_t>(any_count(0, static_cast<int64_t>(all.size())))].schedule);
  }
  std::vector<int64_t> milestones;
  for (size_t i = 1; i < parts.size(); ++i) {
    milestones.push_back((milestones.empty() ? 0 : milestones.back()) + any_count(1, 60));
  }
  all.push_back({"sequential", sequential(parts, {.milestones = milestones})});
  all.push_back({"chained", chained({constant_lr({.factor = gamma}), exponential_lr({.gamma = 0.99}),
                                     step_lr({.step_size = any_count(1, 30), .gamma = gamma})})});
  all.push_back(
      {"hold_after", hold_after(all[static_cast<size_t>(any_count(0, 20))].schedule, {.step = any_count(0, 100)})});
  return all;
}

}  // namespace training
