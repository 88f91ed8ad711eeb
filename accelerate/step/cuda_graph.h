#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace accelerate {

/// Captures the training step, an unchanged loop, as a CUDA graph, and launches that instead of its operators. Every
/// operator of every step is compared with what was captured before anything is launched: a step that does something
/// else runs as if this option were not there, with the same numbers. Place of the peer's `dynamo_backend`.
///
/// A step lasts from the first call of a prepared model to the end of the `accumulate` window, without one to
/// `optimizer.step()`. What it computes on the device has to go through LibTorch's operators, and autograd has to be
/// run by `accelerator.backward`.
struct CudaGraph {
  int64_t warmup_steps = 2;  ///< run before anything is written down, 1 or more: the first makes the optimizers' state
  int64_t max_graphs =
      8;  ///< kinds of steps (shapes, accumulating or final); a further kind is not captured; 1 or more
};

/// What has become of the steps so far.
struct CudaGraphReport {
  int64_t steps = 0;                      ///< begun
  int64_t captured = 0;                   ///< graphs made
  int64_t replayed = 0;                   ///< steps that the graphs have done
  int64_t fallbacks = 0;                  ///< steps that did not do what was captured, and ran operator by operator
  std::string last_fallback;              ///< why
  std::vector<std::string> not_captured;  ///< kinds of steps that never will be, and why
};

}  // namespace accelerate
