#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/comm/handles.h"
#include "accelerate/comm/world.h"
#include "accelerate/core/log.h"
#include "accelerate/precision/choice.h"
#include "accelerate/strategy/choice.h"

namespace accelerate {

/// How gradients accumulate over micro-steps. Source: `accelerate.utils.GradientAccumulationPlugin`.
struct GradientAccumulationPlugin {
  int64_t num_steps = 1;             ///< micro-steps in a window; `backward` divides the loss by it
  bool adjust_scheduler = false;     ///< schedules are sized in batches: a micro-step counts like an update
  bool sync_with_dataloader = true;  ///< the loader's last batch always ends a window
};

/// How prepared loaders share data over the processes. Source: `accelerate.utils.DataLoaderConfiguration`.
struct DataLoaderConfiguration {
  bool even_batches = true;    ///< all processes get as many full batches; what lacks comes from the start of the pass
  bool split_batches = false;  ///< the loader's batch is that of all processes together, each gets a part of it
};

/// How the processes are connected. Source: `accelerate.utils.InitProcessGroupKwargs`.
struct InitProcessGroupKwargs {
  std::optional<std::string> backend = {};  ///< "gloo", "shm", "nccl", "cpu:gloo,cuda:nccl"; unset: the best
  std::chrono::milliseconds timeout = std::chrono::minutes(30);            ///< of one collective
  std::chrono::milliseconds rendezvous_timeout = std::chrono::minutes(5);  ///< until every rank has come
  std::chrono::milliseconds heartbeat_timeout = std::chrono::seconds(10);  ///< a rank silent for so long is lost
  std::chrono::milliseconds slow_warning = std::chrono::seconds(30);  ///< in a collective: the log names who is missing
};

/// Plug-ins of the host program's own, beside the built-in ones. Two of one name are refused.
struct Extensions {
  std::vector<EnvironmentEntry> environments = {};
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
  std::optional<DataLoaderConfiguration> dataloader_config = {};
  std::optional<bool> step_scheduler_with_optimizer =
      {};                        ///< default true; false: `scheduler.step()` counts every time it is called
  StrategyChoice strategy = {};  ///< "ddp", `Ddp{...}`; default: the one that applies to the number of processes
  std::optional<bool> cpu = {};  ///< `ACCELERATE_USE_CPU`; default false: a GPU if there is one
  InitProcessGroupKwargs init_process_group = {};
  std::optional<World> world = {};        ///< this process's place, from the host program instead of the environment
  StoreHandle store = {};                 ///< where the ranks meet, with `.world`: the host program's own c10d::Store
  ProcessGroupHandle process_group = {};  ///< a c10d::ProcessGroup that exists already; gives the world too
  LogSink log_sink = {};                  ///< empty: warnings to standard error
  Extensions extensions = {};
};

/// What `mixed_precision` is when neither the argument nor the environment says.
inline constexpr const char* kDefaultPrecision = "no";

struct BackwardOptions {
  bool retain_graph = false;  ///< the graph can be walked again
  bool create_graph = false;  ///< the gradients get a graph of their own; implies retain_graph
};

}  // namespace accelerate
