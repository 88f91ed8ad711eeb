#include "accelerate/launch/config.h"

#include <algorithm>

#include "accelerate/core/error.h"
#include "accelerate/launch/gpus.h"

namespace accelerate::internal::launch {
namespace {

constexpr int64_t kMostProcesses = 1'000'000;

void require_between(const char* option, std::optional<int64_t> value, int64_t least, int64_t most) {
  if (!value || (*value >= least && *value <= most)) return;
  throw ConfigError({.place = option,
                     .what = "The number is out of range",
                     .got = std::to_string(*value),
                     .expected = "a number from " + std::to_string(least) + " to " + std::to_string(most),
                     .remedy = std::string("Correct ") + option});
}

void require_ranges(const LaunchOptions& options) {
  require_between("--num-processes", options.num_processes, 1, kMostProcesses);
  require_between("--num-machines", options.num_machines, 1, kMostProcesses);
  require_between("--main-process-port", options.main_process_port, 0, 65'535);
  require_between("--num-cpu-threads-per-process", options.num_cpu_threads_per_process, 1, kMostProcesses);
  require_between("--gradient-accumulation-steps", options.gradient_accumulation_steps, 1, INT64_MAX);
  if (options.grace_period) require_between("--grace-period", options.grace_period->count(), 0, 86'400);
}

/// Several machines agree on nothing but what each was told.
void require_whole_set(const LaunchOptions& options) {
  if (!options.num_machines) {
    const char* lone = options.machine_rank      ? "--machine-rank"
                       : options.main_process_ip ? "--main-process-ip"
                                                 : nullptr;
    if (lone == nullptr) return;
    throw ConfigError({.place = lone,
                       .what = "The option is for several machines, and their number is missing",
                       .got = std::string(lone) + " without --num-machines",
                       .expected = "both",
                       .remedy = "Add --num-machines, or leave the option out on a single machine"});
  }
  require_between("--machine-rank", options.machine_rank, 0, *options.num_machines - 1);
  if (*options.num_machines == 1) return;
  std::string missing;
  const auto need = [&](const char* option, bool given) {
    if (!given) missing += (missing.empty() ? "" : ", ") + std::string(option);
  };
  need("--machine-rank", options.machine_rank.has_value());
  need("--main-process-ip", options.main_process_ip.has_value());
  need("--main-process-port", options.main_process_port.value_or(0) != 0);
  if (missing.empty()) return;
  throw ConfigError(
      {.place = "--num-machines",
       .what = "Several machines cannot find each other with what was given",
       .got = std::to_string(*options.num_machines) + " machines without " + missing,
       .expected = "--machine-rank of this machine, and the address and port of machine 0, the same on all",
       .remedy = "Add " + missing});
}

int64_t processes_here(const LaunchOptions& options, int64_t gpus) {
  const int64_t machines = options.num_machines.value_or(1);
  if (!options.num_processes) return std::max<int64_t>(gpus, 1);
  if (*options.num_processes % machines == 0) return *options.num_processes / machines;
  throw ConfigError(
      {.place = "--num-processes",
       .what = "The processes cannot be shared out evenly; their number counts all machines",
       .got = std::to_string(*options.num_processes) + " for " + std::to_string(machines) + " machines",
       .expected = "a multiple of --num-machines",
       .remedy = "Type --num-processes " + std::to_string((*options.num_processes / machines + 1) * machines)});
}

std::map<std::string, std::string> shared_variables(const LaunchOptions& options, const Environment& environment,
                                                    int64_t cores, int64_t here) {
  std::map<std::string, std::string> shared{
      {"GROUP_RANK", std::to_string(options.machine_rank.value_or(0))},
      {"GROUP_WORLD_SIZE", std::to_string(options.num_machines.value_or(1))},
      {"LOCAL_WORLD_SIZE", std::to_string(here)},
      {"MASTER_ADDR", options.main_process_ip.value_or("127.0.0.1")},
      {"MASTER_PORT", std::to_string(options.main_process_port.value_or(0))},
      {"ROLE_NAME", "default"},
      // Left over from a torchrun around us it would make ranks look for a store that no one hosts.
      {"TORCHELASTIC_USE_AGENT_STORE", "False"},
  };
  if (options.num_cpu_threads_per_process) {
    shared["OMP_NUM_THREADS"] = std::to_string(*options.num_cpu_threads_per_process);
  } else if (!environment.text("OMP_NUM_THREADS") && here > 1) {
    // One process keeps LibTorch's own choice, so that a launched run is like one that was started by hand.
    shared["OMP_NUM_THREADS"] = std::to_string(std::max<int64_t>(cores / here, 1));
  }
  if (options.gpu_ids && *options.gpu_ids != kAllGpus) shared["CUDA_VISIBLE_DEVICES"] = *options.gpu_ids;
  if (options.mixed_precision) shared["ACCELERATE_MIXED_PRECISION"] = *options.mixed_precision;
  if (options.gradient_accumulation_steps) {
    shared["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = std::to_string(*options.gradient_accumulation_steps);
  }
  if (options.cpu) {
    shared["ACCELERATE_USE_CPU"] = "true";
    shared["ACCELERATE_TORCH_DEVICE"] = "cpu";  // one of the launcher's own environment would go before
  }
  return shared;
}

}  // namespace

void LaunchPlan::set_port(uint16_t port) {
  for (RankPlan& rank : ranks) rank.variables["MASTER_PORT"] = std::to_string(port);
}

LaunchPlan plan_launch(const LaunchOptions& options, const Environment& environment, const Machine& machine) {
  require_ranges(options);
  require_whole_set(options);
  const int64_t gpus = gpus_to_use(options, environment, machine);
  const int64_t here = processes_here(options, gpus);
  require_gpu_each(here, gpus);
  if (options.program.empty()) {
    throw ConfigError({.place = "launch",
                       .what = "There is no program to start",
                       .got = "options only",
                       .expected = "a program after the options",
                       .remedy = "Type: accelerate-cpp launch --num-processes " + std::to_string(here) + " ./program"});
  }
  LaunchPlan plan;
  plan.program = options.program;
  plan.world_size = here * options.num_machines.value_or(1);
  plan.prefix_output = options.prefix_output;
  if (options.grace_period) plan.grace_after_failure = plan.grace_after_signal = *options.grace_period;
  const int64_t machine_rank = options.machine_rank.value_or(0);
  if (machine_rank == 0) plan.reserve = static_cast<uint16_t>(options.main_process_port.value_or(0));
  for (int64_t local = 0; local < here; ++local) {
    RankPlan one{.rank = machine_rank * here + local,
                 .variables = shared_variables(options, environment, machine.cores, here)};
    for (const char* prefix : {"", "ROLE_"}) {
      one.variables[std::string(prefix) + "RANK"] = std::to_string(one.rank);
      one.variables[std::string(prefix) + "WORLD_SIZE"] = std::to_string(plan.world_size);
    }
    one.variables["LOCAL_RANK"] = std::to_string(local);
    plan.ranks.push_back(std::move(one));
  }
  return plan;
}

}  // namespace accelerate::internal::launch
