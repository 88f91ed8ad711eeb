#pragma once

#include <cstdint>
#include <vector>

#include "accelerate/optim/schedule.h"

// Schedules of `torch.optim.lr_scheduler` that multiply the base rate. Here each is a function of the step, so that it
// can be resumed from the step count; torch multiplies the last rate again and again, which rounds otherwise: after
// 1,000 steps the two agree within 1e-12. Each function throws ConfigError for options that cannot be met.
namespace accelerate {

struct StepLROptions {
  int64_t step_size = 0;  ///< steps between two reductions; required
  double gamma = 0.1;     ///< factor of a reduction
};
/// Source: `torch.optim.lr_scheduler.StepLR`.
Schedule step_lr(StepLROptions options);

struct MultiStepLROptions {
  std::vector<int64_t> milestones =
      {};  ///< steps at which the rate is reduced, in any order; one given twice counts twice
  double gamma = 0.1;
};
/// Source: `torch.optim.lr_scheduler.MultiStepLR`.
Schedule multi_step_lr(MultiStepLROptions options);

struct ExponentialLROptions {
  double gamma = 0;  ///< factor of each step; required
};
/// Source: `torch.optim.lr_scheduler.ExponentialLR`.
Schedule exponential_lr(ExponentialLROptions options);

struct ConstantLROptions {
  double factor = 1.0 / 3.0;  ///< until `total_iters`
  int64_t total_iters = 5;    ///< the base rate from here on
};
/// Source: `torch.optim.lr_scheduler.ConstantLR`.
Schedule constant_lr(ConstantLROptions options = {});

struct LinearLROptions {
  double start_factor = 1.0 / 3.0;  ///< from 0, where the original asks for more, to 1
  double end_factor = 1.0;
  int64_t total_iters = 5;  ///< steps from one to the other
};
/// Source: `torch.optim.lr_scheduler.LinearLR`.
Schedule linear_lr(LinearLROptions options = {});

struct PolynomialLROptions {
  int64_t total_iters = 5;  ///< the rate is 0 from here on
  double power = 1.0;
};
/// Source: `torch.optim.lr_scheduler.PolynomialLR`.
Schedule polynomial_lr(PolynomialLROptions options = {});

}  // namespace accelerate
