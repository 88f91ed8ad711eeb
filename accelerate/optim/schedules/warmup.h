#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "accelerate/optim/schedule.h"

// Schedules of `transformers` that rise linearly from 0 to the base rate; values are equal to the last bit. Each
// function throws ConfigError for options that cannot be met: negative warm-up, an end before the warm-up's or
// before 1.
namespace accelerate {

struct ConstantOptions {
  int64_t warmup_steps = 0;  ///< steps over which the factor rises linearly from 0 to 1
};
/// Source: `transformers.get_constant_schedule`, `get_constant_schedule_with_warmup`.
Schedule constant(ConstantOptions options = {});

struct LinearOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< the factor reaches 0 here and stays there; required
};
/// Source: `transformers.get_linear_schedule_with_warmup`.
Schedule linear(LinearOptions options);

struct PolynomialOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< the rate reaches `lr_end` here and stays there; required
  double lr_end = 1e-7;     ///< of every group; less than each base rate
  double power = 1.0;       ///< of the part of the way that is left
};
/// A group whose base rate is not more than `lr_end` is a ConfigError when the scheduler is built.
/// Source: `transformers.get_polynomial_decay_schedule_with_warmup`, where groups with another rate than the
/// optimizer's default end at another one than `lr_end`.
Schedule polynomial(PolynomialOptions options);

struct InverseSqrtOptions {
  int64_t warmup_steps = 0;
  std::optional<int64_t> timescale = {};  ///< steps until the factor is 0.7; unset: the warm-up, or 10'000 without one
};
/// Source: `transformers.get_inverse_sqrt_schedule`.
Schedule inverse_sqrt(InverseSqrtOptions options = {});

struct WarmupStableDecayOptions {
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;
  std::optional<int64_t> total_steps = {};   ///< of all three parts; this or the next is required
  std::optional<int64_t> stable_steps = {};  ///< between warm-up and decay
  std::string warmup_type = "linear";        ///< "linear", "cosine" or "1-sqrt"
  std::string decay_type = "cosine";         ///< "linear", "cosine" or "1-sqrt"
  double min_lr_ratio = 0;                   ///< the factor at the start and at the end
  double num_cycles = 0.5;                   ///< waves of the decay, for "cosine"
};
/// Rises, stays, falls, and keeps the minimum. Source: `transformers.get_wsd_schedule`.
Schedule warmup_stable_decay(WarmupStableDecayOptions options);

}  // namespace accelerate
