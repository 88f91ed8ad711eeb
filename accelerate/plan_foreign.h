#pragma once

#include "accelerate/core/env.h"

namespace accelerate::internal {

/// Settings of the original's launcher that ask for engines or compilers this library does not have: training on
/// without them would not be what was asked for. Throws ConfigError naming the variable.
void refuse_foreign_engines(const Environment& environment);

}  // namespace accelerate::internal
