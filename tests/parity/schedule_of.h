#pragma once

#include "accelerate/accelerate.h"
#include "tests/parity/fixtures.h"

namespace parity {

/// The schedule that a fixture describes in the words of the original.
accelerate::Schedule schedule_of(const Json& description);

/// The original's options for a plateau.
accelerate::ReduceLROnPlateau plateau_of(const Json& options);

}  // namespace parity
