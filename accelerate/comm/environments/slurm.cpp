// The variables of a Slurm job step: `srun ./train`.
#include <charconv>

#include "accelerate/comm/world.h"
#include "accelerate/core/error.h"

namespace accelerate::internal {
namespace {

std::optional<std::string> refusal(const Environment& environment) {
  const auto tasks = environment.integer("SLURM_STEP_NUM_TASKS");
  if (!tasks) return "SLURM_STEP_NUM_TASKS is not set (no srun)";
  if (*tasks <= 1) return "the Slurm step has one task";
  // mpirun inside a job starts its daemons with srun: those are the step's tasks, not our ranks.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"}) {
    const auto size = environment.integer(name);
    if (size && *size != *tasks) return std::string(name) + " differs from the Slurm step's number of tasks";
  }
  return std::nullopt;
}

/// The first host of a Slurm list: "node[007-010,12],other" -> "node007".
std::string first_host(const std::string& list) {
  const size_t bracket = list.find('[');
  const size_t comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const size_t end = list.find_first_of("-,]", bracket);
  const size_t close = list.find(']', bracket);
  if (end == std::string::npos || close == std::string::npos) return {};
  const size_t after = list.find_first_of(",", close);
  const size_t tail = after == std::string::npos ? list.size() : after;
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1) +
         list.substr(close + 1, tail - close - 1);
}

/// Tasks on node `node`: "4(x2),3" gives 4, 4, 3. Zero when the text says nothing about it.
int64_t tasks_on(const std::string& text, int64_t node) {
  const char* at = text.data();
  const char* end = at + text.size();
  while (at < end) {
    int64_t tasks = 0, times = 1;
    at = std::from_chars(at, end, tasks).ptr;
    if (end - at > 2 && at[0] == '(' && at[1] == 'x') at = std::from_chars(at + 2, end, times).ptr;
    if (node < times) return tasks;
    node -= times;
    while (at < end && *at != ',') ++at;
    if (at < end) ++at;
  }
  return 0;
}

Launched launched(const Environment& environment) {
  const int64_t size = *environment.integer("SLURM_STEP_NUM_TASKS");
  const std::string because = "SLURM_STEP_NUM_TASKS=" + std::to_string(size);
  World world{.rank = required(environment, "SLURM_PROCID", because),
              .size = size,
              .local_rank = required(environment, "SLURM_LOCALID", because)};
  const std::string tasks = environment.text("SLURM_STEP_TASKS_PER_NODE").value_or("");
  world.local_size = tasks_on(tasks, environment.integer("SLURM_NODEID").value_or(0));
  if (world.local_size == 0) world.local_size = world.local_rank + 1;
  const auto hosts = environment.text("SLURM_STEP_NODELIST");
  const int64_t job = environment.integer("SLURM_JOB_ID").value_or(0);
  const int64_t step = environment.integer("SLURM_STEP_ID").value_or(0);
  // Steps of one job and jobs that share a node must not meet; below the range the kernel gives to clients.
  const int64_t port = 20000 + (job * 61 + step) % 10000;
  return {.world = world,
          .rendezvous = rendezvous_from(environment, hosts ? first_host(*hosts) : "", port),
          .own_gpus = environment.text("SLURM_GPUS_PER_TASK").has_value() ||
                      environment.text("SLURM_TRES_PER_TASK").has_value()};
}

}  // namespace

EnvironmentEntry environment_slurm() { return {"slurm", 30, refusal, launched}; }

}  // namespace accelerate::internal
