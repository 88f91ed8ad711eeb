#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "accelerate/core/env.h"
#include "accelerate/launch/machine.h"

namespace accelerate::internal::launch {

/// What was asked for, under the peer's names; nothing means not given. Source: `accelerate launch`.
struct LaunchOptions {
  std::optional<int64_t> num_processes = {};  ///< over all machines
  std::optional<int64_t> num_machines = {};
  std::optional<int64_t> machine_rank = {};
  std::optional<std::string> main_process_ip = {};
  std::optional<int64_t> main_process_port = {};  ///< 0: a free one
  std::optional<std::string> gpu_ids = {};        ///< "0,2", "all", or names that CUDA_VISIBLE_DEVICES takes
  std::optional<int64_t> num_cpu_threads_per_process = {};
  std::optional<std::string> mixed_precision = {};  ///< handed on; the program knows which there are
  std::optional<int64_t> gradient_accumulation_steps = {};
  std::optional<std::chrono::seconds> grace_period = {};  ///< from SIGTERM to SIGKILL
  bool cpu = false;
  bool prefix_output = false;             ///< "[rank] " in front of every line
  std::vector<std::string> program = {};  ///< and its arguments
};

/// One process to start.
struct RankPlan {
  int64_t rank = 0;
  std::map<std::string, std::string> variables;  ///< set on top of those that are inherited
};

/// Everything that is decided before the first process starts.
struct LaunchPlan {
  std::vector<std::string> program;
  int64_t world_size = 1;
  std::vector<RankPlan> ranks;      ///< those of this machine, in order
  std::optional<uint16_t> reserve;  ///< rank 0 will listen on this machine: its port, 0 for a free one
  bool prefix_output = false;
  std::chrono::milliseconds grace_after_failure{5'000};  ///< so that all is over in less than 10 s
  std::chrono::milliseconds grace_after_signal{30'000};  ///< a rank may be saving; torchrun waits as long

  /// MASTER_PORT of every rank, once the free one is known.
  void set_port(uint16_t port);
};

/// Pure. Variables of every rank: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, GROUP_RANK, GROUP_WORLD_SIZE,
/// ROLE_RANK, ROLE_WORLD_SIZE, ROLE_NAME, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE as torchrun sets them,
/// and
///  - OMP_NUM_THREADS: the option, else what is inherited, else with several processes cores / processes, at least 1;
///  - CUDA_VISIBLE_DEVICES from `gpu_ids`, if given and not "all";
///  - ACCELERATE_MIXED_PRECISION, ACCELERATE_GRADIENT_ACCUMULATION_STEPS, ACCELERATE_USE_CPU, if given,
///    the last with ACCELERATE_TORCH_DEVICE=cpu, which would go before it.
/// Processes not given: one per GPU that is visible (CUDA_VISIBLE_DEVICES and the device files), or one.
/// Throws ConfigError, in the option's words: numbers out of range, more processes on a machine than GPUs unless `cpu`,
/// a GPU that is not there, half of what several machines need, no program.
LaunchPlan plan_launch(const LaunchOptions& options, const Environment& environment, const Machine& machine);

}  // namespace accelerate::internal::launch
