// One process that no launcher started.
#include <array>

#include "accelerate/comm/world.h"

namespace accelerate::internal {
namespace {

// The size variables of torchrun, MPICH / Intel MPI, Open MPI, MVAPICH and a Slurm step.
constexpr std::array<const char*, 5> kSizes{"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE",
                                            "SLURM_STEP_NUM_TASKS"};

std::optional<std::string> refusal(const Environment& environment) {
  for (const char* name : kSizes) {
    const auto size = environment.integer(name);
    // Training alone while a launcher counts on several ranks would overwrite files and train on the same data.
    if (size && *size > 1) return "a launcher set " + std::string(name) + "=" + std::to_string(*size);
  }
  return std::nullopt;
}

World world(const Environment&) { return {}; }

}  // namespace

EnvironmentEntry environment_single() { return {"single", refusal, world}; }

}  // namespace accelerate::internal
