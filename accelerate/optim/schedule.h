#pragma once

#include <cstdint>
#include <functional>

namespace accelerate {

/// A learning-rate schedule: the factor on each parameter group's base rate after `step` scheduler steps (0 = before
/// the first). A pure function, so that a schedule can be resumed or plotted from its step count alone.
using Schedule = std::function<double(int64_t step)>;

struct ConstantOptions {
  int64_t warmup_steps = 0;  ///< steps over which the factor rises linearly from 0 to 1
};
struct LinearOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< the factor reaches 0 here and stays there; required
};
struct CosineOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< end of the `num_cycles` waves; required
  double num_cycles = 0.5;  ///< 0.5: down to 0 once
};

/// Each throws ConfigError for negative warm-up, for total_steps below 1 or below the warm-up, and for waves that are
/// not positive. Source: `transformers.get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup`,
/// `get_cosine_schedule_with_warmup`; values are equal to the last bit.
Schedule constant(ConstantOptions options = {});
Schedule linear(LinearOptions options);
Schedule cosine(CosineOptions options);

}  // namespace accelerate
