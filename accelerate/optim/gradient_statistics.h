#pragma once

#include <cstdint>
#include <vector>

namespace torch::optim {
class Optimizer;
}

namespace accelerate {

/// The gradients of one parameter group as they are. A complex number counts as two; what a sparse gradient leaves out
/// counts as zeros.
struct GroupGradientStatistics {
  double norm = 0;               ///< 2-norm of all elements together; NaN or infinite where an element is
  double max_abs = 0;            ///< the largest magnitude, likewise
  double mean = 0;               ///< likewise; 0 without elements
  int64_t elements = 0;          ///< of all gradients
  int64_t non_finite = 0;        ///< elements that are infinite or NaN
  int64_t zero = 0;              ///< elements that are exactly 0
  int64_t with_gradient = 0;     ///< parameters that have one; a tied parameter counts once
  int64_t without_gradient = 0;  ///< parameters that have none
};

/// What `accelerator.gradient_statistics(optimizer)` saw.
struct GradientStatistics {
  /// The micro-step does not end its window: these are the sums so far, with several processes this process's own.
  bool accumulated = false;
  std::vector<GroupGradientStatistics> groups = {};  ///< in the order of the optimizer's
};

namespace internal {

/// The host waits for a device once, however many groups and parameters there are; gradients are not changed.
std::vector<GroupGradientStatistics> gradient_statistics(const torch::optim::Optimizer& optimizer);

}  // namespace internal
}  // namespace accelerate
