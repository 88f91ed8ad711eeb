#pragma once

#include <string>

#include "tests/parity/fixtures.h"

namespace parity {

/// Trains as the fixture's configuration says and compares every micro-step. Empty when all agrees, else the first
/// difference. The loops are those of original/traces.py, call by call, except that clipping is not guarded.
std::string replay(const Json& trace, const Json& problem);

std::string replay_supervised(const Json& trace, const Json& problem);
std::string replay_two_models(const Json& trace, const Json& problem);
std::string replay_adversarial(const Json& trace, const Json& problem);

}  // namespace parity
