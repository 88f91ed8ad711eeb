#pragma once

#include "benchmarks/train/meter.h"
#include "benchmarks/train/settings.h"

namespace benchmark_train {

/// The loop as a user of the library writes it.
void prepared_loop(const Settings& settings, Meter& meter);

/// The same LibTorch operators, written by hand.
void plain_loop(const Settings& settings, Meter& meter);

}  // namespace benchmark_train
