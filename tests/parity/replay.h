#pragma once

#include <string>

#include "accelerate/options.h"
#include "tests/parity/fixtures.h"

namespace parity {

/// Trains as the fixture's configuration says and compares every micro-step. Empty when all agrees, else the first
/// difference. The loops are those of original/traces.py, call by call, except that clipping is not guarded. `options`
/// say which rank this is; its trace is `trace_of_rank`.
std::string replay(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options = {});

/// The part of a trace of several processes that one of them recorded.
Json trace_of_rank(Json trace, int64_t rank);

std::string replay_supervised(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options);
std::string replay_two_models(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options);
std::string replay_closure(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options);
std::string replay_two_optimizers(const Json& trace, const Json& problem,
                                  const accelerate::AcceleratorOptions& options);
std::string replay_adversarial(const Json& trace, const Json& problem, const accelerate::AcceleratorOptions& options);

}  // namespace parity
