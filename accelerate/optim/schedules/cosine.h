#pragma once

#include <cstdint>
#include <optional>

#include "accelerate/optim/schedule.h"

// Waves. Those of `transformers` are equal to the last bit, LibTorch's to rounding (torch multiplies the last rate,
// these are functions of the step). Each function throws ConfigError for options that cannot be met. Past their end,
// `cosine` and the two with a minimum go on with the wave and rise again, as the original's do; `hold_after`
// (combine.h) keeps the end.
namespace accelerate {

struct CosineOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< end of the `num_cycles` waves; required
  double num_cycles = 0.5;  ///< 0.5: down to 0 once
};
/// Source: `transformers.get_cosine_schedule_with_warmup`.
Schedule cosine(CosineOptions options);

struct CosineWithRestartsOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< the factor is 0 from here on; required
  int64_t num_cycles = 1;   ///< half waves, each from 1 down to 0
};
/// Source: `transformers.get_cosine_with_hard_restarts_schedule_with_warmup`.
Schedule cosine_with_restarts(CosineWithRestartsOptions options);

struct CosineWithMinLrOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< required
  double num_cycles = 0.5;
  std::optional<double> min_lr = {};       ///< lowest rate, of every group; this or the next is required
  std::optional<double> min_lr_rate = {};  ///< lowest factor
};
/// A group whose base rate is below `min_lr` is a ConfigError when the scheduler is built.
/// Source: `transformers.get_cosine_with_min_lr_schedule_with_warmup`, where `min_lr` holds only for groups at the
/// optimizer's default rate.
Schedule cosine_with_min_lr(CosineWithMinLrOptions options);

struct CosineWarmupWithMinLrOptions {
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  ///< required
  double num_cycles = 0.5;
  std::optional<double> min_lr = {};          ///< as above
  std::optional<double> min_lr_rate = {};     ///< as above
  std::optional<double> warmup_lr_rate = {};  ///< factor at the first step; unset: 1 / warmup_steps
};
/// Begins above 0 and is a step ahead of `cosine_with_min_lr`.
/// Source: `transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate`.
Schedule cosine_warmup_with_min_lr(CosineWarmupWithMinLrOptions options);

struct CosineAnnealingLROptions {
  int64_t T_max = 0;   ///< steps from the base rate down to `eta_min`; afterwards the way back; required
  double eta_min = 0;  ///< lowest rate, of every group
};
/// Source: `torch.optim.lr_scheduler.CosineAnnealingLR`.
Schedule cosine_annealing_lr(CosineAnnealingLROptions options);

struct CosineAnnealingWarmRestartsOptions {
  int64_t T_0 = 0;     ///< steps of the first half wave; required
  int64_t T_mult = 1;  ///< each half wave is so many times as long as the one before
  double eta_min = 0;  ///< lowest rate, of every group
};
/// Source: `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.
Schedule cosine_annealing_warm_restarts(CosineAnnealingWarmRestartsOptions options);

}  // namespace accelerate
