#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "accelerate/core/log.h"
#include "accelerate/precision/choice.h"
#include "accelerate/strategy/choice.h"

namespace accelerate {

/// How gradients accumulate over micro-steps. Source: `accelerate.utils.GradientAccumulationPlugin`.
struct GradientAccumulationPlugin {
  int64_t num_steps = 1;             ///< micro-steps in a window; `backward` divides the loss by it
  bool sync_with_dataloader = true;  ///< the loader's last batch always ends a window
};

/// Plug-ins of the host program's own, beside the built-in ones. Two of one name are refused.
struct Extensions {
  std::vector<PrecisionEntry> precisions = {};
  std::vector<StrategyEntry> strategies = {};
};

/// Every choice an Accelerator takes. An unset one comes from the environment, then from the default;
/// `accelerator.plan()` prints which. Source: the constructor of `accelerate.Accelerator`.
struct AcceleratorOptions {
  Precision mixed_precision = {};  ///< "no", "bf16"; `ACCELERATE_MIXED_PRECISION`; default "no"
  std::optional<int64_t> gradient_accumulation_steps = {};  ///< `ACCELERATE_GRADIENT_ACCUMULATION_STEPS`; default 1
  std::optional<GradientAccumulationPlugin> gradient_accumulation_plugin =
      {};  ///< instead of the line above, not with it
  std::optional<bool> step_scheduler_with_optimizer =
      {};                 ///< default true; false: `scheduler.step()` counts every time it is called
  LogSink log_sink = {};  ///< empty: warnings to standard error
  Extensions extensions = {};
};

/// What `mixed_precision` is when neither the argument nor the environment says.
inline constexpr const char* kDefaultPrecision = "no";

struct BackwardOptions {
  bool retain_graph = false;  ///< the graph can be walked again
  bool create_graph = false;  ///< the gradients get a graph of their own; implies retain_graph
};

}  // namespace accelerate
