#pragma once

#include <cstdint>
#include <vector>

#include "accelerate/optim/schedule.h"

// Schedules made of schedules. Each function throws ConfigError for an empty list, an empty schedule, and parts that
// count in other units than steps: the unit is that of the whole (`chained({...}).in(unit)`).
namespace accelerate {

/// All of them at once: the rate that one gives is the base rate of the next, so that factors are multiplied. Source:
/// `torch.optim.lr_scheduler.ChainedScheduler`, where a `LambdaLR` throws away what those before it did.
Schedule chained(std::vector<Schedule> schedules);

struct SequentialOptions {
  std::vector<int64_t> milestones =
      {};  ///< the step at which the next schedule begins, one less than there are schedules
};
/// One after the other; each counts its steps from its beginning, and from the base rate of the groups.
/// Source: `torch.optim.lr_scheduler.SequentialLR`.
Schedule sequential(std::vector<Schedule> schedules, SequentialOptions options);

/// One for each parameter group. Source: `torch.optim.lr_scheduler.LambdaLR` with a list.
Schedule per_group(std::vector<Schedule> schedules);

struct HoldAfterOptions {
  int64_t step = 0;  ///< what the schedule has here it keeps
};
/// Keeps what `schedule` has at a step for all later ones: the end of a wave that would rise again, reached also where
/// several steps are taken at once.
Schedule hold_after(Schedule schedule, HoldAfterOptions options);

}  // namespace accelerate
