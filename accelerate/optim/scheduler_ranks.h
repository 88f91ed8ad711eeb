#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "accelerate/comm/group.h"

// What schedulers of several ranks exchange. Reached by every rank; `device` is the one that the group serves.
namespace accelerate::internal {

int64_t sum_over_ranks(const Group& group, c10::Device device, int64_t own);

/// Throws CommError on every rank, naming two that differ, unless all have the same metric: their rates would part.
void require_equal_metrics(const Group& group, c10::Device device, double metric);

}  // namespace accelerate::internal
