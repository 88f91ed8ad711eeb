#include "accelerate/optim/schedule.h"

namespace accelerate {

Schedule::Schedule(Factor factor, Direct) {
  if (!factor) return;
  rule_.values = [factor = std::move(factor)](int64_t step, const ScheduledGroup& group) {
    return ScheduledValues{.rate = group.base_rate * factor(step)};
  };
}

}  // namespace accelerate
