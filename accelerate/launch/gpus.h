#pragma once

#include <cstdint>
#include <string_view>

namespace accelerate {
class Environment;
}

namespace accelerate::internal::launch {

struct LaunchOptions;
struct Machine;

inline constexpr std::string_view kAllGpus = "all";

/// How many GPUs the ranks of this machine will see: those of `gpu_ids`; else those that CUDA_VISIBLE_DEVICES leaves of
/// the machine's; 0 with `cpu`. Numbers count CUDA's devices; other words (GPU-<uuid>, MIG-<uuid>) are CUDA's to judge.
/// Throws ConfigError for ids with `cpu`, malformed, twice, or not there.
int64_t gpus_to_use(const LaunchOptions& options, const Environment& environment, const Machine& machine);

/// Throws ConfigError when GPUs are used (`gpus` is not 0) and there are fewer than processes.
void require_gpu_each(int64_t processes, int64_t gpus);

}  // namespace accelerate::internal::launch
