#pragma once

#include "accelerate/comm/group.h"
#include "accelerate/core/fields.h"

namespace accelerate::internal {

/// Throws ConfigError on every rank, naming each setting that has to be the same on all of them and is not, with the
/// ranks and their values. One small exchange; nothing in a group of one.
void require_same_plan(const Group& group, const Fields& fields);

}  // namespace accelerate::internal
