// The variables of Open MPI, MPICH, Intel MPI and MVAPICH.
#include <array>

#include "accelerate/comm/world.h"

namespace accelerate::internal {
namespace {

struct Names {
  const char *size, *rank, *local_rank, *local_size;
};
constexpr std::array<Names, 3> kFlavours{{
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"},
    {"PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
}};

const Names* flavour(const Environment& environment) {
  for (const Names& names : kFlavours) {
    const auto size = environment.integer(names.size);
    if (size && *size > 1) return &names;
  }
  return nullptr;
}

std::optional<std::string> refusal(const Environment& environment) {
  if (flavour(environment) != nullptr) return std::nullopt;
  return "OMPI_COMM_WORLD_SIZE, MV2_COMM_WORLD_SIZE and PMI_SIZE are not set";
}

/// Jobs of one host must not meet: Open MPI names each of them (4: a number, 5: a name space). The others do not.
int64_t port_of_job(const Environment& environment) {
  auto job = environment.text("OMPI_MCA_ess_base_jobid");
  if (!job) job = environment.text("PMIX_NAMESPACE");
  if (!job) return 29500;
  uint32_t hash = 2166136261;  // FNV-1a, since neighbours are likely and every rank has to come to the same
  for (const unsigned char letter : *job) hash = (hash ^ letter) * 16777619;
  return 20000 + hash % 10000;
}

Launched launched(const Environment& environment) {
  const Names& names = *flavour(environment);
  World world{.size = *environment.integer(names.size)};
  world.rank = required(environment, names.rank, std::string(names.size) + "=" + std::to_string(world.size));
  world.local_rank = environment.integer(names.local_rank).value_or(0);
  world.local_size = environment.integer(names.local_size).value_or(world.local_rank + 1);
  // MPI gives no address. On one host none is needed; on several somebody has to name the host of rank 0.
  const bool one_host = world.local_size == world.size;
  return {.world = world,
          .rendezvous = rendezvous_from(environment, one_host ? "127.0.0.1" : "", port_of_job(environment))};
}

}  // namespace

EnvironmentEntry environment_mpi() { return {"mpi", 20, refusal, launched}; }

}  // namespace accelerate::internal
