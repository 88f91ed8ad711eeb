#pragma once

#include <optional>

namespace torch::optim {
class OptimizerOptions;
}

namespace accelerate::internal {

/// What schedules cycle against the rate: `momentum` of SGD and RMSprop, the first beta of Adam and AdamW; nothing for
/// the options of other optimizers.
std::optional<double> momentum_of(const torch::optim::OptimizerOptions& options);
/// For options that have it.
void set_momentum(torch::optim::OptimizerOptions& options, double momentum);

}  // namespace accelerate::internal
