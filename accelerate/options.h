#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "accelerate/comm/handles.h"
#include "accelerate/comm/rng_types.h"
#include "accelerate/comm/world.h"
#include "accelerate/core/log.h"
#include "accelerate/optim/grad_scaler.h"
#include "accelerate/precision/autocast.h"
#include "accelerate/precision/choice.h"
#include "accelerate/precision/float32.h"
#include "accelerate/precision/policy.h"
#include "accelerate/profile/kwargs.h"
#include "accelerate/step/capture_device.h"
#include "accelerate/step/cuda_graph.h"
#include "accelerate/strategy/choice.h"

namespace accelerate {

/// What the losses of a window without counts of their own (`BackwardOptions`) are divided by.
enum class WindowDivisor {
  kNumSteps,    ///< `num_steps`, as in the original: the update of a short last window is smaller
  kMicroSteps,  ///< the number of micro-steps that the window has come to: each window is a mean over its micro-steps
};

/// How gradients accumulate over micro-steps. Source: `accelerate.utils.GradientAccumulationPlugin`.
struct GradientAccumulationPlugin {
  int64_t num_steps = 1;             ///< micro-steps in a window; `backward` divides the loss by it
  bool adjust_scheduler = false;     ///< schedules are sized in batches: a micro-step counts like an update
  bool sync_with_dataloader = true;  ///< the loader's last batch always ends a window
  bool sync_each_batch = false;      ///< gradients are averaged over the processes after every micro-step
  WindowDivisor divide_by = WindowDivisor::kNumSteps;
};

/// How prepared loaders share data over the processes. Source: `accelerate.utils.DataLoaderConfiguration`.
struct DataLoaderConfiguration {
  bool even_batches = true;    ///< all processes get as many full batches; what lacks comes from the start of the pass
  bool split_batches = false;  ///< the loader's batch is that of all processes together, each gets a part of it
  bool use_seedable_sampler = true;        ///< a shuffled order is that of (seed, epoch); false: drawn at each pass
  std::optional<uint64_t> data_seed = {};  ///< of the orders of loaders without a `.seed` of their own
  bool non_blocking = true;                ///< the host goes on while a batch travels to the GPU
};

/// Where a run keeps its files, and how its checkpoints are named. Source: `accelerate.utils.ProjectConfiguration`.
struct ProjectConfiguration {
  std::optional<std::string> project_dir = {};  ///< the folder of the run
  std::optional<std::string> logging_dir = {};  ///< of what is logged; unset: `project_dir`
  bool automatic_checkpoint_naming = false;     ///< checkpoints are numbered below `project_dir`
  std::optional<int64_t> total_limit = {};      ///< so many checkpoints are kept
  int64_t iteration = 0;                        ///< the number of the next one
  bool save_on_each_node = false;               ///< each host's main process saves, not the first alone

  /// `project_dir`, and `logging_dir` if there is none yet.
  void set_directories(const std::string& directory) {
    project_dir = directory;
    if (!logging_dir) logging_dir = directory;
  }
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
  std::vector<CaptureDeviceEntry> captures = {};  ///< for `.cuda_graph` on other devices than CUDA's
};

/// Every choice an Accelerator takes. An unset one comes from the environment, then from the default;
/// `accelerator.plan()` prints which. Source: the constructor of `accelerate.Accelerator`.
struct AcceleratorOptions {
  /// "no", "bf16", "fp16", "bf16_master", "bf16_stochastic" (docs/precision.md); `ACCELERATE_MIXED_PRECISION`; default
  /// "no"
  Precision mixed_precision = {};
  std::optional<int64_t> gradient_accumulation_steps = {};  ///< `ACCELERATE_GRADIENT_ACCUMULATION_STEPS`; default 1
  std::optional<GradientAccumulationPlugin> gradient_accumulation_plugin =
      {};  ///< instead of the line above, not with it
  std::optional<DataLoaderConfiguration> dataloader_config = {};
  std::optional<bool> step_scheduler_with_optimizer =
      {};                        ///< default true; false: `scheduler.step()` counts every time it is called
  StrategyChoice strategy = {};  ///< "ddp", `Ddp{...}`; default: the one that applies to the number of processes
  std::optional<bool> cpu = {};  ///< `ACCELERATE_USE_CPU`; default false: a GPU if there is one
  std::optional<bool> device_placement = {};  ///< default true; false: what is prepared stays on the device it is on
  /// Random states that are rank 0's on every process when a pass over a prepared loader starts: "torch", "cuda",
  /// "generator"; default "generator".
  RngTypes rng_types = {};
  std::optional<std::string> project_dir = {};
  std::optional<ProjectConfiguration> project_config = {};
  std::optional<AutocastKwargs> autocast_handler = {};  ///< of model calls, and of `autocast()` without options
  Float32Kwargs float32 = {};  ///< whether float32 products may use TF32: switches of the process
  std::optional<GradScalerKwargs> scaler_handler = {};  ///< how the loss of fp16 is scaled; unused in other precisions
  std::optional<CudaGraph> cuda_graph =
      {};                              ///< steps are captured as CUDA graphs; unset: they run operator by operator
  ProfileKwargs profile_handler = {};  ///< of `profile()` without options
  std::optional<std::string> log_level =
      {};  ///< "debug", "info", "warning", "error", "critical"; `ACCELERATE_LOG_LEVEL`
  std::optional<bool> debug =
      {};  ///< `ACCELERATE_DEBUG_MODE`; default false: processes compare their calls before each collective
  InitProcessGroupKwargs init_process_group = {};
  std::optional<World> world = {};        ///< this process's place, from the host program instead of the environment
  StoreHandle store = {};                 ///< where the ranks meet, with `.world`: the host program's own c10d::Store
  ProcessGroupHandle process_group = {};  ///< a c10d::ProcessGroup that exists already; gives the world too
  LogSink log_sink = {};                  ///< empty: warnings to standard error
  Extensions extensions = {};
};

/// What `mixed_precision` is when neither the argument nor the environment says.
inline constexpr const char* kDefaultPrecision = "no";

/// How much a loss counts: a number, or a tensor of one element, which the host does not read.
class LossCount {
 public:
  LossCount() = default;  ///< not given
  template <class Number>
  requires std::is_arithmetic_v<Number> LossCount(Number number)  // NOLINT: `.num_items = 12`
      : number_(static_cast<double>(number)) {}
  LossCount(at::Tensor tensor) : tensor_(std::move(tensor)) {}  // NOLINT: `.num_items = mask.sum()`
  bool given() const { return number_ || tensor_; }
  const std::optional<double>& number() const { return number_; }
  const std::optional<at::Tensor>& tensor() const { return tensor_; }

 private:
  std::optional<double> number_;
  std::optional<at::Tensor> tensor_;
};

struct BackwardOptions {
  bool retain_graph = false;  ///< the graph can be walked again
  bool create_graph = false;  ///< the gradients get a graph of their own; implies retain_graph
  /// The loss is a sum over so many tokens or samples; 0 is allowed. Counts are summed over the micro-steps of a window
  /// and over the processes, and where the window ends the gradients are divided once by that sum instead of by the
  /// number of steps and of processes: the update is that of one batch of everything.
  LossCount num_items = {};
  /// The same for a loss that is a mean over so many: it is multiplied by the count first. Not together with
  /// `num_items`.
  LossCount weight = {};
};

}  // namespace accelerate
