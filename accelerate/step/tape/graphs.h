#pragma once

#include <vector>

#include "accelerate/step/tape/recording.h"

namespace accelerate::internal {

/// Which graphs of autograd the values of a step belong to, as far as its operators tell.
struct Graphs {
  std::vector<size_t> begun;  ///< of each value: the first operator of its graph; none: `kNoGraph`
  std::vector<bool> unspent;  ///< of each value: has a graph that no backward pass of the step has used up
  static constexpr size_t kNoGraph = static_cast<size_t>(-1);

  explicit Graphs(const Recording& recording);
};

}  // namespace accelerate::internal
