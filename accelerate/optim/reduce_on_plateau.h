#pragma once

#include <cstdint>
#include <string>

#include "accelerate/optim/schedule.h"

namespace accelerate {

/// Lowers the rates when a metric has stopped improving: `scheduler.step(metric)`. Given to `Scheduler` or to `prepare`
/// like a schedule. Options that cannot be met are a ConfigError there. A metric that is not a number counts as no
/// improvement. Every process has to pass the same metric, or their rates part.
/// As in the original, a prepared one takes the metric once for each process, which uses up the patience as many times
/// faster; with `.unit = ScheduleUnit::kUpdates` it takes it once.
/// Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.
struct ReduceLROnPlateau {
  std::string mode = "min";                    ///< "min": a lower metric is better; "max": a higher one
  double factor = 0.1;                         ///< of a reduction; below 1
  int64_t patience = 10;                       ///< steps without improvement that are borne
  double threshold = 1e-4;                     ///< what counts as an improvement
  std::string threshold_mode = "rel";          ///< "rel": relative to the best metric; "abs": a difference to it
  int64_t cooldown = 0;                        ///< steps after a reduction that do not count
  PerGroup min_lr = 0.0;                       ///< no rate is lowered below
  double eps = 1e-8;                           ///< a rate that would change by no more is left alone
  ScheduleUnit unit = ScheduleUnit::kBatches;  ///< or kUpdates
};

}  // namespace accelerate
