// The variables of torchrun, which accelerate-cpp launch, Kubernetes operators and most others set too.
#include "accelerate/comm/world.h"

namespace accelerate::internal {
namespace {

std::optional<std::string> refusal(const Environment& environment) {
  const auto size = environment.integer("WORLD_SIZE");
  if (environment.integer("RANK") || (size && *size > 1)) return std::nullopt;
  return "RANK and WORLD_SIZE are not set";
}

Launched launched(const Environment& environment) {
  const int64_t size = required(environment, "WORLD_SIZE", "RANK=" + environment.text("RANK").value_or(""));
  const int64_t rank = required(environment, "RANK", "WORLD_SIZE=" + std::to_string(size));
  // Operators that start one process a pod leave the local ones out.
  const int64_t local_rank = environment.integer("LOCAL_RANK").value_or(0);
  const int64_t local_size = environment.integer("LOCAL_WORLD_SIZE").value_or(local_rank + 1);
  Launched launched{
      .world = {.rank = rank, .size = size, .local_rank = local_rank, .local_size = local_size},
      .rendezvous = rendezvous_from(environment),
  };
  // The agent of torchrun serves the store for its workers, and again for those that it restarts.
  launched.rendezvous.served = environment.flag("TORCHELASTIC_USE_AGENT_STORE").value_or(false);
  if (const auto attempt = environment.text("TORCHELASTIC_RESTART_COUNT")) {
    launched.rendezvous.prefix = "attempt_" + *attempt;
  }
  if (size == 1) launched.rendezvous = {};
  return launched;
}

}  // namespace

// Asked first: who sets these by hand, inside whatever scheduler, means them.
EnvironmentEntry environment_torchrun() { return {"torchrun", 40, refusal, launched}; }

}  // namespace accelerate::internal
